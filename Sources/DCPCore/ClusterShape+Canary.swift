// SPDX-License-Identifier: Apache-2.0

extension ModelID {
    /// The canaries' model. The coordinator describes it and gives this number to no other, so no client can register a
    /// model that passes for it. Ranks take a canary's tokens also when their store takes no others.
    public static let canary = ModelID(0)
}

extension ContextLayout {
    /// The most tokens of a canary: every context rank owns some, and one more for each of two steps.
    public var canaryTokens: Int { contextRanks * interleave + 2 }
}

extension ClusterShape {
    /// The canaries' model: small, and with a query head for every rank of a group.
    public func canaryModel() throws(ServiceError) -> ModelDescription {
        try ModelDescription(
            layers: 1, queryHeads: headGroups * max(2, contextRanks), kvHeads: headGroups, keyDim: 8, valueDim: 8,
            scale: 0.5, softcap: nil, kvFormat: .float32)
    }
}
