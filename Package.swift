// swift-tools-version: 6.2
import PackageDescription

// Targets stand in the order of DESIGN: imports only go down.

let swiftSettings: [SwiftSetting] = [
    .swiftLanguageMode(.v6),
    .treatAllWarnings(as: .error),
    .enableUpcomingFeature("ExistentialAny"),
    .enableUpcomingFeature("MemberImportVisibility"),
    .enableUpcomingFeature("InternalImportsByDefault"),
    .enableUpcomingFeature("NonisolatedNonsendingByDefault"),
]

let cSettings: [CSetting] = [.treatAllWarnings(as: .error), .enableWarning("all"), .enableWarning("extra")]

func library(_ name: String, _ dependencies: [Target.Dependency]) -> Target {
    .target(name: name, dependencies: dependencies, swiftSettings: swiftSettings)
}

func tests(_ module: String, _ dependencies: [Target.Dependency] = [], resources: [Resource]? = nil) -> Target {
    .testTarget(
        name: "\(module)Tests", dependencies: [.byName(name: module), "DCPTestKit"] + dependencies,
        resources: resources, swiftSettings: swiftSettings)
}

let package = Package(
    name: "dcp",
    targets: [
        .systemLibrary(name: "CLMDB", pkgConfig: "lmdb", providers: [.apt(["liblmdb-dev"])]),
        .systemLibrary(name: "COpenBLAS", pkgConfig: "openblas", providers: [.apt(["libopenblas-dev"])]),
        .target(name: "CChecksum", cSettings: cSettings),
        .target(name: "CAttentionKernels", cSettings: cSettings),
        library("DCPCore", ["CChecksum"]),
        library("DCPAttention", ["DCPCore", "CAttentionKernels", "COpenBLAS"]),
        library("DCPTestKit", ["DCPCore", "DCPAttention"]),
        tests("DCPCore"),
        tests("DCPAttention", ["DCPCore", "CAttentionKernels"]),
    ]
)
