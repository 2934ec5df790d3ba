// SPDX-License-Identifier: Apache-2.0

import DCPTestKit
import Foundation
import Testing

/// The modules of this package and what each imports of the others, as Package.swift declares them.
private struct ModuleGraph {
    /// Without what only tests build.
    let imports: [String: [String]]
    let libraries: [String]
    /// The names of other packages' products by module.
    let products: [String: [String]]

    init() throws {
        let manifest = try String(contentsOfFile: repositoryFile("Package.swift"), encoding: .utf8)
            .replacing(#/\/\/[^\n]*/#, with: "")
        var named: [String: [String]] = [:]
        var products: [String: [String]] = [:]
        var libraries: [String] = []
        for match in manifest.matches(of: #/(library|executable)\(\s*"([^"]+)",\s*\[([^\]]*)\]\s*(, path)?/#) {
            guard match.4 == nil else { continue }
            let name = String(match.2)
            named[name] = match.3.matches(of: #/"([^"]+)"/#).map { String($0.1) }
            products[name] = match.3.replacing(#/"[^"]*"/#, with: "").matches(of: #/\w+/#).map { String($0.0) }
            if match.1 == "library" { libraries.append(name) }
        }
        for match in manifest.matches(of: #/\.(systemLibrary|target)\(\s*name: "([^"]+)"/#) {
            named[String(match.2)] = []
        }
        imports = named.mapValues { $0.filter { named[$0] != nil } }
        self.libraries = libraries
        self.products = products
    }

    func all(below module: String) -> Set<String> {
        (imports[module] ?? []).reduce(into: []) { $0.formUnion(all(below: $1).union([$1])) }
    }

    /// What a module imports and no other import of its brings.
    func direct(_ module: String) -> [String] {
        let imported = imports[module] ?? []
        return imported.filter { name in !imported.contains { all(below: $0).contains(name) } }
    }

    /// The longest way down.
    func height(_ module: String) -> Int { (imports[module] ?? []).map { height($0) + 1 }.max() ?? 0 }

    /// A line for each height, the highest first.
    var picture: String {
        let lines = Dictionary(grouping: imports.keys, by: height).sorted { $0.key > $1.key }
        return lines.map { $0.value.sorted { $0.lowercased() < $1.lowercased() }.joined(separator: "  ") }
            .joined(separator: "\n")
    }
}

@Suite("The architecture")
struct ArchitectureTests {
    private let graph: ModuleGraph

    init() throws { graph = try ModuleGraph() }

    @Test("the article's picture and its table are what Package.swift declares")
    func article() throws {
        let article = try String(
            contentsOfFile: repositoryFile("Sources/DCPCore/DCPCore.docc/Architecture.md"), encoding: .utf8)
        #expect(article.contains("```\n\(graph.picture)\n```\n"), "\(graph.picture)")
        for module in graph.libraries {
            let row = "| `\(module)` | \(graph.direct(module).joined(separator: ", ")) | "
            #expect(article.contains(row), "\(row)")
        }
    }

    @Test("who uses the library links no Foundation, starts no process and reads no file formats")
    func client() throws {
        let modules = graph.all(below: "DCPClient").union(["DCPClient"])
        #expect(modules.isSuperset(of: ["DCPCore", "DCPWire", "DCPTransport"]))
        let allowed: Set = ["nioCore", "nioPosix", "nioTLS", "nioSSL", "system"]
        for module in modules {
            #expect(allowed.isSuperset(of: graph.products[module] ?? []), "\(module)")
            let folder = URL(filePath: repositoryFile("Sources/\(module)"))
            let files = try #require(FileManager.default.enumerator(at: folder, includingPropertiesForKeys: nil))
            for case let file as URL in files where file.pathExtension == "swift" {
                let text = try String(contentsOf: file, encoding: .utf8)
                #expect(!text.contains(#/import Foundation\b/#), "\(file.path)")
                #expect(!text.contains(#/posix_spawn|fork\(\)|Process\(\)/#), "\(file.path)")
            }
        }
    }
}
