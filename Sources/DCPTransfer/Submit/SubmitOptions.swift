// SPDX-License-Identifier: Apache-2.0

public import DCPCore
public import DCPWire

/// Options of a submission. For nil the file's metadata apply, then the cluster's model, then a default.
public struct SubmitOptions: Sendable {
    public var model: String?
    public var sequence: String?
    public var kvFormat: CacheFormat?
    /// For a file with one layer's `q`, `k`, `v`: which layer they are of. Default 0.
    public var layer: Int?
    /// The model's number of layers.
    public var layers: Int?
    /// Where the file's tokens begin. Default: where the sequence ends; with `continues`, 0.
    public var position: Int?
    /// Continues at the sequence's length in the file, after comparing the stored tokens with the file.
    public var continues = false
    /// How many tokens go in chunks; the rest go one at a time. Default: all.
    public var prefill: Int?
    public var chunk = 512
    public var scale: Float?
    public var softcap: Float?
    /// Tokens that a query sees, including its own; 0 for all.
    public var window: Int?
    /// What identifies the model's weights; compared with what is registered.
    public var revision: String?
    /// The whole model, where it does not come from the file. What file and flags say must not contradict it.
    public var description: ModelDescription?
    public var queryMode: StepRequest.QueryMode?
    /// A file to compare with, and by how much a value may differ.
    public var expect: String?
    public var tolerance: Float = 2e-5

    /// How long an outage of the cluster may last before the submission fails. Default: it fails at once.
    public var retryFor = Duration.zero

    public init() {}
}
