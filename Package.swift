// swift-tools-version: 6.2
// SPDX-License-Identifier: Apache-2.0
import PackageDescription

// Targets stand in the order of the architecture: imports only go down. See Sources/DCPCore/DCPCore.docc.

let swiftSettings: [SwiftSetting] = [
    .swiftLanguageMode(.v6),
    .treatAllWarnings(as: .error),
    .enableUpcomingFeature("ExistentialAny"),
    .enableUpcomingFeature("MemberImportVisibility"),
    .enableUpcomingFeature("InternalImportsByDefault"),
    .enableUpcomingFeature("NonisolatedNonsendingByDefault"),
]

let cSettings: [CSetting] = [.treatAllWarnings(as: .error), .enableWarning("all"), .enableWarning("extra")]

let nioCore: Target.Dependency = .product(name: "NIOCore", package: "swift-nio")
let nioPosix: Target.Dependency = .product(name: "NIOPosix", package: "swift-nio")
let nioEmbedded: Target.Dependency = .product(name: "NIOEmbedded", package: "swift-nio")
let nioTLS: Target.Dependency = .product(name: "NIOTLS", package: "swift-nio")
let nioSSL: Target.Dependency = .product(name: "NIOSSL", package: "swift-nio-ssl")
let logging: Target.Dependency = .product(name: "Logging", package: "swift-log")
let lifecycle: Target.Dependency = .product(name: "ServiceLifecycle", package: "swift-service-lifecycle")
let unixSignals: Target.Dependency = .product(name: "UnixSignals", package: "swift-service-lifecycle")
let yams: Target.Dependency = .product(name: "Yams", package: "Yams")
let hummingbird: Target.Dependency = .product(name: "Hummingbird", package: "hummingbird")
let argumentParser: Target.Dependency = .product(name: "ArgumentParser", package: "swift-argument-parser")
let x509: Target.Dependency = .product(name: "X509", package: "swift-certificates")
let swiftASN1: Target.Dependency = .product(name: "SwiftASN1", package: "swift-asn1")
let system: Target.Dependency = .product(name: "SystemPackage", package: "swift-system")
let crypto: Target.Dependency = .product(name: "Crypto", package: "swift-crypto")

func library(_ name: String, _ dependencies: [Target.Dependency]) -> Target {
    .target(name: name, dependencies: dependencies, swiftSettings: swiftSettings)
}

func executable(_ name: String, _ dependencies: [Target.Dependency], path: String? = nil) -> Target {
    .executableTarget(name: name, dependencies: dependencies, path: path, swiftSettings: swiftSettings)
}

/// The tests of one module: they see it and whatever else they name.
func tests(_ module: String, _ dependencies: [Target.Dependency] = []) -> Target {
    .testTarget(
        name: "\(module)Tests",
        dependencies: [.byName(name: module), "DCPTestKit"] + (module == "DCPCore" ? [] : ["DCPCore"]) + dependencies,
        swiftSettings: swiftSettings)
}

let package = Package(
    name: "dcp",
    products: [
        .library(name: "DCPClient", targets: ["DCPClient"]),
        .executable(name: "dcp-rank", targets: ["dcp-rank"]),
        .executable(name: "dcp-coordinator", targets: ["dcp-coordinator"]),
        .executable(name: "dcpctl", targets: ["dcpctl"]),
        .executable(name: "dcp-bench", targets: ["dcp-bench"]),
        .executable(name: "dcp-simulator", targets: ["dcp-simulator"]),
    ],
    dependencies: [
        .package(url: "https://github.com/apple/swift-argument-parser", from: "1.8.0"),
        // Without swift-configuration and all of Foundation, of which metrics need nothing.
        .package(url: "https://github.com/hummingbird-project/hummingbird", from: "2.28.0", traits: []),
        .package(url: "https://github.com/apple/swift-asn1", from: "1.7.0"),
        .package(url: "https://github.com/apple/swift-certificates", from: "1.21.0"),
        .package(url: "https://github.com/apple/swift-crypto", "3.12.3"..<"5.0.0"),
        .package(url: "https://github.com/apple/swift-log", from: "1.16.0"),
        .package(url: "https://github.com/apple/swift-nio", from: "2.101.0"),
        .package(url: "https://github.com/apple/swift-nio-ssl", from: "2.37.0"),
        .package(url: "https://github.com/apple/swift-system.git", from: "1.8.0"),
        .package(url: "https://github.com/swift-server/swift-service-lifecycle", from: "2.13.0"),
        .package(url: "https://github.com/jpsim/Yams", from: "6.2.2"),
    ],
    targets: [
        // System libraries and C: leaves.
        .systemLibrary(name: "CLMDB", pkgConfig: "lmdb", providers: [.apt(["liblmdb-dev"])]),
        .systemLibrary(name: "COpenBLAS", pkgConfig: "openblas", providers: [.apt(["libopenblas-dev"])]),
        .systemLibrary(name: "CSystemd", pkgConfig: "libsystemd", providers: [.apt(["libsystemd-dev"])]),
        .target(name: "CLinux", cSettings: cSettings + [.define("_GNU_SOURCE")]),
        .target(name: "CChecksum", cSettings: cSettings),
        .target(name: "CAttentionKernels", cSettings: cSettings),
        .target(name: "CBenchmarkKernels", cSettings: cSettings),

        // What a rank computes and keeps.
        library("DCPCore", ["CChecksum", system]),
        library("DCPAttention", ["DCPCore", "CAttentionKernels", "COpenBLAS"]),
        library("DCPStore", ["DCPCore", "CLMDB", "CLinux"]),
        library("DCPCache", ["DCPCore", "DCPAttention", "DCPStore"]),

        // How ranks, coordinator and clients talk.
        library("DCPCertificates", ["DCPCore", x509, swiftASN1, crypto, system]),
        library("DCPWire", ["DCPCore", nioCore]),
        library("DCPTransport", ["CLinux", "DCPCore", "DCPWire", nioCore, nioPosix, nioTLS, nioSSL]),
        library("DCPCollectives", ["DCPCore"]),
        library("DCPObservability", ["DCPCore"]),

        // The services.
        library(
            "DCPRank",
            [
                "DCPCore", "DCPAttention", "DCPStore", "DCPCache", "DCPWire", "DCPTransport", "DCPCollectives",
                "DCPObservability", nioCore, nioPosix,
            ]),
        library(
            "DCPCoordinator", ["DCPCore", "DCPStore", "DCPWire", "DCPTransport", "DCPObservability", nioCore]),
        library("DCPClient", ["DCPCore", "DCPWire", "DCPTransport", "CLinux", nioCore, nioPosix, system]),

        // What programs have beside the client.
        library("DCPFiles", ["DCPCore", yams]),
        library("DCPSafetensors", ["DCPCore", "DCPFiles", "CLinux", system]),
        library("DCPModelFiles", ["DCPCore", "DCPFiles", "DCPSafetensors", yams]),
        library(
            "DCPTransfer",
            ["DCPCore", "DCPStore", "DCPWire", "DCPClient", "DCPFiles", "DCPSafetensors", system]),
        library("DCPLocalCluster", ["DCPCore", "DCPFiles", "CLinux", system]),
        library("DCPHost", ["DCPWire", system]),
        library("DCPConsole", ["DCPCore"]),
        library(
            "DCPDaemon",
            [
                "DCPCore", "DCPAttention", "DCPCache", "DCPStore", "DCPWire", "DCPTransport", "DCPRank",
                "DCPCoordinator", "DCPClient", "DCPFiles", "DCPHost", "DCPConsole", "DCPObservability", "CSystemd",
                nioCore, nioPosix, logging, lifecycle, unixSignals, argumentParser, yams, hummingbird,
            ]),
        library("DCPOracle", ["DCPCore"]),
        library("DCPTestKit", ["DCPCore", "DCPAttention", "DCPOracle"]),
        library(
            "DCPBench",
            [
                "DCPCore", "DCPAttention", "DCPStore", "DCPCache", "DCPCertificates", "DCPWire", "DCPTransport",
                "DCPRank", "DCPClient", "DCPTransfer", "DCPLocalCluster", "DCPHost", "DCPConsole", "DCPOracle",
                "CBenchmarkKernels",
            ]),

        library(
            "DCPSimulator",
            [
                "DCPCore", "DCPStore", "DCPCache", "DCPWire", "DCPTransport", "DCPRank", "DCPCoordinator", "DCPClient",
                "DCPOracle", nioCore,
            ]),

        // Thin executables.
        executable("dcp-rank", ["DCPConsole", "DCPDaemon", argumentParser]),
        executable("dcp-coordinator", ["DCPConsole", "DCPDaemon", argumentParser]),
        executable(
            "dcpctl",
            [
                "DCPCore", "DCPAttention", "DCPCache", "DCPCertificates", "DCPWire", "DCPTransport", "DCPClient",
                "DCPSafetensors", "DCPModelFiles", "DCPTransfer", "DCPLocalCluster", "DCPHost", "DCPConsole",
                argumentParser, unixSignals, system,
            ]),
        executable(
            "dcp-bench",
            [
                "DCPCore", "DCPAttention", "DCPClient", "DCPStore", "DCPConsole", "DCPWire", "DCPBench", argumentParser,
                unixSignals,
            ]),
        executable("dcp-reference", ["DCPConsole", "DCPDaemon", "DCPWire", argumentParser]),
        executable("dcp-simulator", ["DCPCore", "DCPConsole", "DCPSimulator", argumentParser]),
        executable(
            "cache-crasher", ["DCPCore", "DCPAttention", "DCPCache", "DCPStore"], path: "Tests/Support/cache-crasher"),
        executable(
            "dcp-soak",
            [
                "DCPCore", "DCPAttention", "DCPCache", "DCPClient", "DCPLocalCluster", "DCPHost", "DCPTransport",
                "DCPWire",
                "DCPConsole", "DCPTestKit", argumentParser,
            ], path: "Tests/Support/soak"),

        tests("DCPCore"),
        tests("DCPAttention", ["DCPSafetensors"]),
        tests("DCPStore"),
        tests("DCPCache", ["DCPAttention", "DCPStore", "CLMDB", "cache-crasher"]),
        tests("DCPCertificates", [x509, swiftASN1]),
        tests("DCPWire", [nioCore]),
        tests("DCPTransport", ["DCPCertificates", "DCPWire", nioCore, nioEmbedded, nioPosix, nioSSL]),
        tests("DCPCollectives"),
        tests("DCPRank", ["DCPAttention", "DCPCache", "DCPStore", "DCPWire", "DCPTransport", nioCore, nioPosix]),
        tests("DCPCoordinator", ["DCPWire", "DCPStore", "DCPTransport"]),
        tests("DCPClient", ["DCPWire", "DCPTransport"]),
        tests("DCPSafetensors"),
        tests("DCPModelFiles", ["DCPSafetensors"]),
        tests("DCPTransfer"),
        tests("DCPLocalCluster"),
        tests("DCPHost", ["DCPWire"]),
        tests("DCPObservability"),
        tests("DCPDaemon", ["DCPAttention", "DCPRank", "DCPObservability", nioCore, logging, argumentParser]),
        tests("DCPConsole"),
        tests("dcpctl", ["DCPCertificates", "DCPClient", "DCPWire"]),
        tests("DCPBench"),
        .testTarget(
            name: "SimulationTests", dependencies: ["DCPTestKit", "dcp-simulator"], swiftSettings: swiftSettings),
        .testTarget(
            name: "IntegrationTests",
            dependencies: [
                "DCPCore", "DCPAttention", "DCPCertificates", "DCPWire", "DCPTransport", "DCPClient", "DCPSafetensors",
                "DCPTransfer", "DCPLocalCluster", "DCPHost", "DCPObservability", "DCPTestKit", "dcp-rank",
                "dcp-coordinator", "dcpctl", "dcp-bench", "dcp-soak", nioCore, nioPosix, nioSSL,
            ],
            swiftSettings: swiftSettings),
    ]
)
