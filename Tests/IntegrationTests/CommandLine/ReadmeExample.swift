// SPDX-License-Identifier: Apache-2.0

import DCPClient

/// Sends a prompt of 512 tokens to a cluster, layer by layer, and makes it durable.
func prefill(
    _ prompt: [(queries: TokenRows, keys: TokenRows, values: TokenRows)], at coordinator: String
) async throws -> [AttentionOutput] {
    let cluster = try await Cluster.connect(to: Endpoint(coordinator))  // unix:/run/dcp/coordinator.sock
    let description = try ModelDescription(
        layers: prompt.count, queryHeads: 32, kvHeads: 8, keyDim: 128, valueDim: 128,
        scale: LayerAttention.defaultScale(keyDim: 128), softcap: nil, kvFormat: .bfloat16)
    let model = try await cluster.registerModel("llama", description)
    let chat = try await cluster.openSequence("chat-1", model: "llama")

    var answers: [AttentionOutput] = []
    for (layer, rows) in prompt.enumerated() {
        answers.append(  // outputs: Float32 [512][32][128]
            try await cluster.step(
                layer: layer, [chat.entry(position: 0, count: 512)], model: model,
                queries: rows.queries, keys: rows.keys, values: rows.values))
    }
    try await cluster.commit([SequenceLength(sequence: chat.record.id, length: 512)])
    await cluster.close()
    return answers
}
