// SPDX-License-Identifier: Apache-2.0

public import DCPWire

/// The clients of the steps, and their number.
public struct StepLoad: Sendable {
    /// The transport between clients and ranks.
    public enum Connection: String, Sendable {
        case unix
        case tcp
        case tls
    }

    /// Each has its own connections and sequences; all send a step at the same time.
    public var clients: Int
    /// Sequences in one step.
    public var batch: Int
    /// Whether as many steps of one fork each are measured in turn with each step.
    public var comparesAlone: Bool
    /// Layers of the model; each token takes one step per layer.
    public var layers: Int
    /// Whether each token is committed.
    public var commits: Bool
    public var connection: Connection
    /// Whether ranks do, where they are connected by Unix sockets.
    public var sharesMemory: Bool
    /// nil takes what costs less.
    public var queryMode: StepRequest.QueryMode?
    /// Tokens of the prefills that another client sends meanwhile, one after the other; nil without. The context is then
    /// theirs, and that of the steps is `shortContext`.
    public var prefill: Int?

    /// Read in a tenth of a millisecond, and by a compute thread: less is computed on the event loop of a rank.
    static let shortContext = 1024

    public init(
        clients: Int = 1, batch: Int = 1, comparesAlone: Bool = false, layers: Int = 1, commits: Bool = false,
        connection: Connection = .unix, sharesMemory: Bool = true, queryMode: StepRequest.QueryMode? = nil,
        prefill: Int? = nil
    ) {
        self.clients = clients
        self.batch = batch
        self.comparesAlone = comparesAlone
        self.layers = layers
        self.commits = commits
        self.connection = connection
        self.sharesMemory = sharesMemory
        self.queryMode = queryMode
        self.prefill = prefill
    }

    /// `2 clients, batch 8`; empty for the least there is.
    var label: String {
        var parts: [String] = []
        if clients > 1 { parts.append("\(clients) clients") }
        if batch > 1 { parts.append(comparesAlone ? "\(batch) forks" : "batch \(batch)") }
        if layers > 1 { parts.append("\(layers) layers") }
        if commits { parts.append("committed") }
        if connection != .unix { parts.append(connection.rawValue) }
        if !sharesMemory { parts.append("without shared memory") }
        if let prefill { parts.append("beside prefills of \(prefill)") }
        if let queryMode { parts.append("queries \(queryMode)") }
        return parts.joined(separator: ", ")
    }
}
