// SPDX-License-Identifier: Apache-2.0

package import DCPAttention
internal import DCPCore
internal import Foundation

/// `kernels.json` in a store's directory: how the kernels of a machine prefetch best, and what each way gave. A store that
/// moves to another processor leaves it behind.
package struct PrefetchFile {
    package static let name = "kernels.json"

    private let path: String
    private let processor: String
    private let kernels: String

    package init(store directory: String, processor: String = ProcessorIdentity.current, kernels: String) {
        path = directory + "/" + Self.name
        self.processor = processor
        self.kernels = kernels
    }

    /// The trials of earlier starts, perhaps not all; nil when there are none of this processor and these kernels, or
    /// when it is not known which processor this is.
    package func read() -> PrefetchTrials? {
        guard let data = FileManager.default.contents(atPath: path),
            let content = try? JSONDecoder().decode(Content.self, from: data), content.version == Content.versionNow,
            !processor.isEmpty, content.processor == processor, content.kernels == kernels
        else { return nil }
        return PrefetchTrials(content.trials)
    }

    /// - Throws: what the file system says.
    package func write(_ trials: PrefetchTrials) throws {
        let encoder = JSONEncoder()
        encoder.outputFormatting = [.prettyPrinted, .sortedKeys]
        let content = Content(processor: processor, kernels: kernels, trials: trials.trials)
        try encoder.encode(content).write(to: URL(fileURLWithPath: path), options: .atomic)
    }

    private struct Content: Codable {
        static let versionNow = 1

        var version = versionNow
        var processor: String
        var kernels: String
        var trials: [PrefetchTrials.Trial]
    }
}
