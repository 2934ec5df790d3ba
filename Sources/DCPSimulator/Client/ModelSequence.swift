// SPDX-License-Identifier: Apache-2.0

internal import DCPCore
internal import DCPOracle
internal import DCPWire

/// What a client believes one sequence to hold, kept apart from the system: the reference.
///
/// A token that is sent again after a rollback has other values, so that a rank that kept the old ones answers wrongly.
final class ModelSequence {
    struct Layer {
        /// `[token][kvHeads][Dk]`, rounded to the cache format.
        var keys: [Float] = []
        /// `[token][kvHeads][Dv]`; none where the keys hold them.
        var values: [Float] = []
        var count = 0
    }

    let name: String
    let model: ModelDescription
    var record: SequenceRecord?
    var layers: [Layer]
    /// What its client calls the tokens, as far as any layer goes; a sequence may be without.
    private(set) var ids: [UInt32] = []
    let hasIDs: Bool
    /// Raised with each cut, so that a token that is sent again has another id.
    private var idGeneration: UInt64 = 0
    /// The greatest length for which a commit was sent since the last cut: no rank may have committed more.
    var askedLength = 0
    /// Counts cuts and rollbacks. Two moments with the same count belong to one history.
    private(set) var cuts = 0
    /// A cut was requested while steps may have been in flight: until the next rewind a rank may have those, too.
    var mayBeLonger = false
    /// What was acknowledged as committed, and when: the last entry is what no rank may have lost.
    private(set) var acknowledged: [(time: UInt64, length: Int)] = [(0, 0)]

    init(name: String, model: ModelDescription) {
        self.name = name
        self.model = model
        layers = Array(repeating: Layer(), count: model.layers)
        hasIDs = Self.hash(name) % 4 != 0
    }

    /// A fork of the first tokens of another, not acknowledged yet.
    init(name: String, forkOf parent: ModelSequence, length: Int) {
        self.name = name
        model = parent.model
        layers = parent.layers
        hasIDs = parent.hasIDs
        ids = parent.ids
        askedLength = length
        for layer in layers.indices { cut(layer, to: length) }
    }

    /// What was sent by now, and promised before.
    init(copy other: ModelSequence, floor: Int, at time: UInt64) {
        (name, model, hasIDs, record) = (other.name, other.model, other.hasIDs, other.record)
        (layers, ids, idGeneration) = (other.layers, other.ids, other.idGeneration)
        askedLength = other.askedLength
        acknowledged = [(time, floor)]
    }

    var floor: Int { acknowledged.last!.length }
    /// Where all layers agree.
    var length: Int { layers.map(\.count).min() ?? 0 }

    func acknowledge(_ length: Int, at time: UInt64) {
        guard length > floor else { return }
        acknowledged.append((time, length))
    }

    /// A rank has lost what it wrote after `time`: that is not promised.
    func forgive(after time: UInt64) {
        cuts += 1
        while acknowledged.count > 1, acknowledged.last!.time > time { acknowledged.removeLast() }
        if acknowledged.last!.time > time { acknowledged = [(0, 0)] }
    }

    /// The client has asked for a cut: less is promised from now on.
    func promiseAtMost(_ length: Int) {
        cuts += 1
        acknowledged = acknowledged.map { ($0.time, min($0.length, length)) }
    }

    func cut(_ layer: Int, to length: Int) {
        guard length < layers[layer].count else { return }
        cuts += 1
        layers[layer].keys.removeLast((layers[layer].count - length) * model[layer].kvHeads * model[layer].keyDim)
        layers[layer].values.removeLast(
            (layers[layer].count - length) * model[layer].kvHeads * model[layer].ownValueDim)
        layers[layer].count = length
        let longest = layers.map(\.count).max()!
        guard longest < ids.count else { return }
        ids.removeLast(ids.count - longest)
        idGeneration += 1
    }

    /// Takes new tokens in, as they are about to be sent.
    func append(_ layer: Int, _ keys: [Float], _ values: [Float], tokens: Int) {
        layers[layer].keys += Rounding.kept(keys, dim: model[layer].keyDim, areKeys: true, model.kvFormat)
        layers[layer].values += Rounding.kept(values, dim: model[layer].ownValueDim, areKeys: false, model.kvFormat)
        layers[layer].count += tokens
        guard hasIDs else { return }
        // Not drawn from the seed's numbers. Few ids, so that sequences begin alike and part at any place.
        while ids.count < layers[layer].count {
            let mixed = Self.hash("\(name) \(idGeneration) \(ids.count)")
            ids.append(mixed % 16 == 0 ? 2 : 1)
        }
    }

    /// FNV-1a.
    private static func hash(_ text: String) -> UInt64 {
        text.utf8.reduce(0xCBF2_9CE4_8422_2325) { ($0 ^ UInt64($1)) &* 0x100_0000_01B3 } >> 16
    }
}
