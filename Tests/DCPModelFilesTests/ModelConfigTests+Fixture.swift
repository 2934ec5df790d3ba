// SPDX-License-Identifier: Apache-2.0

import DCPCore
import DCPModelFiles
import DCPTestKit
import Foundation
import Testing

extension ModelConfigTests {
    /// The descriptions of `Tests/Fixtures/model-configs`, encoded, for clients in other languages that read the same files. What
    /// is refused here has none.
    private func fixture() throws -> String {
        let sinks = try writeSinks("checkpoint", 0..<36)
        let configs = repositoryFile("Tests/Fixtures/model-configs")
        let names = try FileManager.default.contentsOfDirectory(atPath: configs).sorted()
        let lines = try names.map { name in
            var source = ModelSource(.config("\(configs)/\(name)"))
            if name == "gpt_oss.json" { source.sinks = [sinks] }
            do throws(ServiceError) {
                let encoded = Data(try source.description().encoded).base64EncodedString()
                return #"  "\#(name)": "\#(encoded)""#
            } catch {
                try #require(error.code == .invalidModel)
                return #"  "\#(name)": null"#
            }
        }
        return "{\n" + lines.joined(separator: ",\n") + "\n}\n"
    }

    @Test("Tests/Fixtures/model-descriptions.json is what the files are read as; DCP_WRITE_FIXTURES=1 writes it anew")
    func descriptionsOfOtherLanguages() throws {
        let path = repositoryFile("Tests/Fixtures/model-descriptions.json")
        let text = try fixture()
        if ProcessInfo.processInfo.environment["DCP_WRITE_FIXTURES"] != nil {
            try Data(text.utf8).write(to: URL(filePath: path))
        }
        #expect(try String(contentsOf: URL(filePath: path), encoding: .utf8) == text)
    }
}
