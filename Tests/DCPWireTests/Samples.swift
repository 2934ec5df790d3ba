// SPDX-License-Identifier: Apache-2.0

import DCPCore
import DCPWire
import NIOCore

/// At least one message of every frame type, with every case of the enumerations inside.
enum Samples {
    static func messages() throws -> [Message] {
        let shape = try ModelDescription(
            layers: 3, queryHeads: 9, kvHeads: 3, keyDim: 64, valueDim: 32, scale: 0.125, softcap: 30,
            kvFormat: .bfloat16)
        let plain = try ModelDescription(
            layers: 1, queryHeads: 8, kvHeads: 8, keyDim: 8, valueDim: 8, scale: 1, softcap: nil, kvFormat: .float32)
        let bytes = try [CacheFormat.int8, .fp8].map { format in
            try ModelDescription(
                layers: 2, queryHeads: 4, kvHeads: 2, keyDim: 16, valueDim: 12, scale: 0.25, softcap: nil,
                kvFormat: format)
        }
        let model = ModelRecord(id: ModelID(7), name: "smöl", description: shape)
        let cluster = try ClusterShape(
            ranks: 4, headGroups: 2, interleave: 16, blockTokens: 64, exchange: .allGatherReduceScatter)
        return try control(model, plain, cluster) + (try directory(model, [plain] + bytes)) + clients(cluster) + peers()
    }

    private static var retention: Retention {
        var retention = Retention()
        (retention.isPinned, retention.isKept, retention.priority, retention.timeToLive) = (true, true, -3, 86_400)
        return retention
    }

    private static func control(_ model: ModelRecord, _ plain: ModelDescription, _ cluster: ClusterShape) throws
        -> [Message]
    {
        let record = SequenceRecord(id: SequenceID(4), name: "chat", model: ModelID(3), scope: "tenant")
        let members = (0..<4).map {
            Topology.Member(rank: RankIndex($0), endpoint: $0 == 2 ? nil : .unix(path: "/run/\($0)"))
        }
        return [
            .hello(Hello(role: .rank, rank: RankIndex(3), fingerprint: LayoutFingerprint(cluster))),
            .hello(Hello(role: .client, fingerprint: nil, release: "9.9")),
            .hello(
                Hello(
                    role: .rank, rank: RankIndex(0), fingerprint: LayoutFingerprint(cluster), features: .sharedMemory)),
            .memoryRequest(MemoryAddress(name: "dcp-0af3", token: .init(high: .max, low: 7))), .memorySent,
            .memoryTaken,
            .welcome(Hello(role: .coordinator, fingerprint: LayoutFingerprint(cluster))),
            .failure(ServiceError(.overloaded, "Too much – wait.", rank: RankIndex(2))),
            .failure(ServiceError(ServiceError.Code(rawValue: 4711), "")),
            .register(
                Registration(
                    rank: RankIndex(1), store: StoreID(high: 1, low: UInt64.max), cluster: ClusterID(17),
                    endpoint: .tcp(host: "127.0.0.1", port: 7400),
                    epoch: Epoch(12), models: [model, ModelRecord(id: ModelID(8), name: "b", description: plain)],
                    numbers: .init(model: 9, sequence: 1 << 40), directoryMark: DirectoryMark(1 << 33))),
            .heldSequences(
                HeldSequences(
                    [.init(sequence: SequenceID(5), model: ModelID(7), committedLength: 1 << 40, retention: retention)],
                    isLast: true)),
            .renewLease(LeaseRenewal(stepsInFlight: 77)), .leaseRenewed,
            .renewLease(
                LeaseRenewal(
                    stepsInFlight: 1, refusal: ServiceError(.storeFull, "Full.", rank: RankIndex(3)),
                    evictionByteCount: 1 << 33, usedSequences: [SequenceID(9), SequenceID(2)])),
            .victimsRequest([SequenceID(2), SequenceID(9)]), .victimsRequest([]), .victims([SequenceID(9)]),
            .matchRequest(
                MatchQuestion(model: ModelID(7), scope: "tenant", ids: [1, .max, 0], excluding: [SequenceID(4)])),
            .matched([]), .matched([HeldLength(sequence: SequenceID(9), length: 1 << 40)]),
            .lengthsRequest([SequenceID(9)]), .lengths([HeldLength(sequence: SequenceID(9), length: 7)]),
            .recordsRequest([SequenceID(4)]), .records([record]), .copyRequest, .copyHeld,
            .directoryMark(DirectoryMark(.max)),
            .refusals([]),
            .refusals([
                ServiceError(.storeFull, "Full.", rank: RankIndex(3)),
                ServiceError(.storeDamaged, "Lost.", rank: RankIndex(0)),
            ]),
            .topology(
                Topology(
                    epoch: Epoch(9), phase: .incomplete, reason: "rank 2 missing (gone)", shape: cluster,
                    leaseMilliseconds: 5000, members: members, cluster: ClusterID(17))),
            .linksReady,
            .operation(.putModel(model)), .operation(.removeModel(ModelID(3))),
            .operation(.open(record)),
            .operation(.fork(parent: SequenceID(4), child: SequenceID(6), length: 99, name: "twig")),
            .operation(.retain(SequenceID(4), retention)),
            .operation(.truncate(SequenceID(4), length: 12)), .operation(.close(SequenceID(4))),
            .operation(.evict(SequenceID(4))),
            .operation(.claim(SequenceID(4), Claim(9), holder: "client:alice")), .operationDone,
        ]
    }

    private static func directory(_ model: ModelRecord, _ descriptions: [ModelDescription]) throws -> [Message] {
        let record = SequenceRecord(id: SequenceID(11), name: "chat", model: ModelID(7), scope: "tenant")
        let opened = OpenedSequence(sequence: record, model: model)
        let refusal = ServiceError(.unknownSequence, "No.")
        return [
            .request(GetTopology(waitMilliseconds: 30_000)), .request(ListModels()), .request(ListSequences()),
            .request(ListSequences(prefix: "tenant-", after: SequenceID(7), count: 1)),
            .request(Many(descriptions.map { RegisterModel(name: "m", $0) })), .request(Many([RemoveModel(name: "m")])),
            .request(
                Many([
                    OpenSequence(name: "s", model: "m", revision: "r", scope: "tenant", create: true),
                    OpenSequence(name: "t", model: "", create: false),
                ])),
            .request(Many([OpenCanary(name: ".canary")])),
            .request(Many([ClaimSequence(SequenceID(4), held: Claim(8))])),
            .request(Many([ForkSequence(name: "s", newName: "t", length: 2, claim: Claim(9))])),
            .request(Many([TruncateSequence(name: "s", length: 3, claim: Claim(9))])),
            .request(Many([CloseSequence(name: "s", claim: Claim(9), keep: true)])),
            .request(
                Many([
                    RetainSequence(name: "s"),
                    RetainSequence(name: "s", isPinned: false, priority: -128, timeToLive: .max),
                ])),
            .reply(
                Topology(
                    epoch: Epoch(9), phase: .ready, reason: "",
                    shape: try ClusterShape(
                        ranks: 1, headGroups: 1, interleave: 1, blockTokens: 16, exchange: .allToAll),
                    leaseMilliseconds: 5000, members: [.init(rank: RankIndex(0), endpoint: .unix(path: "/run/0"))],
                    cluster: ClusterID(.max)),
                to: GetTopology.self),
            .reply([model, model], to: ListModels.self),
            .reply(
                SequenceList(
                    models: [model], sequences: [.init(record: record, retention: retention)],
                    next: SequenceID(1 << 40), directoryCount: 3),
                to: ListSequences.self),
            .reply(Many.Reply([.success(model)]), to: Many<RegisterModel>.self),
            .reply(Many.Reply([.success(Done()), .failure(refusal)]), to: Many<RemoveModel>.self),
            .reply(Many.Reply([.success(opened), .failure(refusal)]), to: Many<OpenSequence>.self),
            .reply(Many.Reply([.success(opened)]), to: Many<OpenCanary>.self),
            .reply(Many.Reply([.success(Claim(9))]), to: Many<ClaimSequence>.self),
            .reply(Many.Reply([.success(record)]), to: Many<ForkSequence>.self),
            .reply(Many.Reply([.failure(refusal)]), to: Many<TruncateSequence>.self),
            .reply(Many.Reply([.success(Done())]), to: Many<CloseSequence>.self),
            .reply(Many.Reply([.success(retention)]), to: Many<RetainSequence>.self),
            .request(Many([BeginCopy(waitMilliseconds: 10_000)])),
            .reply(Many.Reply([.success(BegunCopy(number: 1 << 40, epoch: Epoch(9)))]), to: Many<BeginCopy>.self),
            .request(
                Many([
                    OpenMatching(
                        name: "s", model: "m", revision: "r", scope: "tenant", ids: [5, 6, .max], lengthMax: 2)
                ])),
            .reply(
                Many.Reply([
                    .success(MatchedSequence(sequence: record, model: model, length: 2, claim: Claim(9))),
                    .failure(refusal),
                ]), to: Many<OpenMatching>.self),
        ]
    }

    private static func hostReport() -> HostReport {
        var report = HostReport(release: "9.9", processID: 12, userID: 107)
        (report.hostName, report.bootID, report.hugePages) = ("node-1", "5b3c", "madvise")
        (report.wallNanoseconds, report.openFiles, report.openFilesMax) = (1 << 60, 30, 4096)
        report.lockedByteCountMax = .max
        report.disk = HostReport.Disk(
            directory: "/var/lib/dcp/rank-1", fileSystem: "ext4", freeByteCount: 1 << 40, byteCount: 1 << 41)
        report.kernels = HostReport.Kernels(
            instructionSet: "avx2", fastest: "avx512bf16", openBLASCore: "Haswell", openBLASCoreIsForcedOlder: true)
        report.variables = ["OPENBLAS_CORETYPE=Haswell", ""]
        report.peers = [
            HostReport.Peer(rank: RankIndex(0), isReached: true), HostReport.Peer(rank: RankIndex(2), isReached: false),
        ]
        return report
    }

    private static func clients(_ cluster: ClusterShape) -> [Message] {
        let status = SequenceStatus(
            sequence: SequenceID(1), committedLength: 9, layerLengths: [9, 10, 11], localTokens: 3, claim: Claim(6),
            intactLength: 8, tokenIDs: 9)
        return [
            .request(step()),
            .reply(
                StepResult(tokens: 2, heads: 3, valueDim: 4, outputs: bytes(96), lse: bytes(24)), to: StepRequest.self),
            .reply(StepResult(tokens: 2, heads: 3, valueDim: 4, outputs: bytes(96), lse: nil), to: StepRequest.self),
            .request(
                Commit([
                    SequenceLength(sequence: SequenceID(1), length: 10, claim: Claim(3)),
                    .init(sequence: SequenceID(2), length: 0),
                ])),
            .request(
                Commit([
                    SequenceCommit(
                        sequence: SequenceID(1), length: 10, tokens: TokenIDs(start: 7, ids: [1, .max, 3]),
                        annotation: [1, 2], claim: Claim(3)),
                    SequenceCommit(sequence: SequenceID(2), length: 0, annotation: []),
                ])),
            .request(ReadTokens(SequenceID(1), start: 5, count: 7, wantsAnnotation: true)),
            .reply(ReadTokens.Reply(ids: [1, 2, .max], annotation: [9]), to: ReadTokens.self),
            .reply(ReadTokens.Reply(ids: [], annotation: nil), to: ReadTokens.self),
            .request(
                MatchTokens(
                    MatchQuestion(model: ModelID(3), scope: "tenant", ids: [1, 2, 3], excluding: [SequenceID(8)]),
                    revision: "r")),
            .reply(MatchTokens.Reply(HeldLength(sequence: SequenceID(1), length: 2)), to: MatchTokens.self),
            .reply(MatchTokens.Reply(nil), to: MatchTokens.self),
            .request(ListStores()),
            .reply(
                [RecordedStore(rank: RankIndex(1), store: StoreID(high: 5, low: 6), mark: 7, isHere: true)],
                to: ListStores.self),
            .request(GiveUpStore(rank: RankIndex(1), loss: .store(StoreID(high: 5, low: 6)))),
            .request(GiveUpStore(rank: RankIndex(1), loss: .changes(7))), .reply(Done(), to: GiveUpStore.self),
            .request(ReadCopy(number: 1 << 40, page: 7)), .request(EndCopy(number: 1 << 40)),
            .reply(
                CopiedPages(
                    StoredPages(
                        pageByteCount: 4, pages: 40, runs: [7..<9, 11..<12],
                        bytes: Array(1...12), next: 13)), to: ReadCopy.self),
            .reply(Done(), to: EndCopy.self), .request(GetHostReport()), .reply(HostReport(), to: GetHostReport.self),
            .reply(hostReport(), to: GetHostReport.self), .reply(Done(), to: Commit.self),
            .request(Many([GetSequenceStatus(SequenceID(1)), GetSequenceStatus(SequenceID(9))])),
            .reply(Many.Reply([.success(status)]), to: Many<GetSequenceStatus>.self),
            .request(Many([CutUncommitted(SequenceLength(sequence: SequenceID(1), length: 4, claim: Claim(8)))])),
            .reply(Many.Reply([.success(CutLength(4))]), to: Many<CutUncommitted>.self), .request(GetRankStatus()),
            .reply(rankStatus(stepTimes), to: GetRankStatus.self),
        ] + readers()
    }

    private static func rankStatus(_ stepTimes: StepTimes) -> RankStatus {
        var status = RankStatus(
            rank: RankIndex(2), processID: 4242, store: StoreID(high: 3, low: 4), threads: 2, kernels: "scalar",
            sequences: 1, tokens: 2, sealedBlocks: 3, openBlockByteCount: 4, uncommittedByteCount: 5,
            storeByteCount: 6, mapByteCountMax: 7, stepsInFlight: 8, stepsCompleted: 9, stepsAborted: 10,
            framesRefused: 11, receiveByteCount: 12, sendByteCount: 13, stepTokens: 26, commits: 27,
            commitNanoseconds: 28, peersConnected: 29, stepTimes: stepTimes,
            room: StoreRoom(
                durability: "always", condition: .refused, refusal: "No space.", fileByteCount: 22,
                highByteCount: 23, lowByteCount: 24, deletingByteCount: 25))
        (status.piecedBlocks, status.uncommittedByteCountMax, status.spilledByteCount) = (30, 31, 32)
        status.holders = [
            .init(sequence: SequenceID(7), byteCount: 33, spilledByteCount: 32),
            .init(sequence: SequenceID(8), byteCount: 4, spilledByteCount: 0),
        ]
        return status
    }

    private static func readers() -> [Message] {
        var progress = VerificationProgress()
        (progress.byteCount, progress.byteCountTotal, progress.sequences) = (1 << 40, 1 << 41, 3)
        (progress.blocks, progress.rows) = (4, 5)
        let findings = [
            StoreFinding(
                .block, sequence: SequenceID(7), layer: 0, block: 9, intactLength: 640, "Block 9 fails its checksum."),
            StoreFinding(.record, sequence: SequenceID(8), intactLength: 0, "The record."),
            StoreFinding(.strayRows, sequence: SequenceID(0), ""), StoreFinding(.superblock, "Größe"),
        ]
        return [
            .request(VerificationRequest(start: true, sequence: SequenceID(0), firstFinding: 0)),
            .request(VerificationRequest(start: false, firstFinding: 256)),
            .reply(
                VerificationStatus(
                    run: 2, state: .running, sequence: nil, progress: progress, failure: "", findingCount: 5000,
                    damageCount: 4999, keptCount: 4096, firstFinding: 100, findings: findings),
                to: VerificationRequest.self),
            .reply(
                VerificationStatus(
                    run: 3, state: .failed, sequence: SequenceID(4), progress: VerificationProgress(),
                    failure: "The rank is stopping.", findingCount: 0, damageCount: 0, keptCount: 0, firstFinding: 0,
                    findings: []), to: VerificationRequest.self),
            .request(RowsRequest(sequence: SequenceID(5), layer: 3, position: 4096, count: 512)),
            .reply(
                RowsReply(
                    generation: 6, tokens: 3, dataType: .bfloat16, kvHeads: 2, keyDim: 8, valueDim: 6,
                    rows: bytes(3 * 2 * (8 + 6) * 2)), to: RowsRequest.self),
            // A rank that owns none of the tokens answers all the same.
            .reply(
                RowsReply(
                    generation: 0, tokens: 0, dataType: .float32, kvHeads: 2, keyDim: 8, valueDim: 6,
                    rows: ByteBuffer()), to: RowsRequest.self),
            .request(append()), .request(query()), .request(committing()),
        ]
    }

    /// A step without queries, to a rank that owns two of its three tokens.
    static func append() -> StepRequest {
        var step = step()
        (step.queryMode, step.queryHeads, step.keyValueTokens) = (.absent, 0, 2)
        step.tensors = bytes(2 * (8 + 6) * 2)
        return step
    }

    /// A step behind which its sequences are committed, one with ids.
    static func committing() -> StepRequest {
        var step = step()
        step.commits = [
            SequenceCommit(
                sequence: SequenceID(1), length: 41, tokens: TokenIDs(start: 40, ids: [17]), claim: Claim(1 << 32 | 5)),
            SequenceCommit(sequence: SequenceID(2), length: 2, annotation: [1, 2]),
        ]
        return step
    }

    /// A step of queries alone.
    static func query() -> StepRequest {
        var step = step()
        (step.appends, step.keyValueTokens) = (false, 0)
        step.tensors = bytes(2 * 3 * 8 * 4)
        return step
    }

    private static var stepTimes: StepTimes {
        var times = StepTimes()
        (times.total, times.newTokens, times.context, times.kernels) = (14, 15, 16, 17)
        (times.queryWait, times.partialWait, times.merge, times.other) = (18, 19, 20, 21)
        return times
    }

    private static func peers() -> [Message] {
        [
            .query(QuerySlice(tokens: 2, heads: 3, keyDim: 4, dataType: .float16, queries: bytes(48))),
            .partial(PartialSlice(tokens: 2, heads: 3, valueDim: 4, outputs: bytes(96), lse: bytes(48))),
            // A rank with no own heads still takes part.
            .partial(PartialSlice(tokens: 2, heads: 0, valueDim: 4, outputs: ByteBuffer(), lse: ByteBuffer())),
            .logSumExp(LogSumExps(tokens: 2, heads: 3, lse: bytes(48))),
            .corrected(CorrectedSlice(tokens: 2, heads: 3, valueDim: 4, outputs: bytes(96))),
            .abort(ServiceError(.storeFull, "The store is full.", rank: RankIndex(0))), .appended,
        ]
    }

    /// Two entries of 1 and 2 tokens, 2 query heads and 1 KV head of dims 8 and 6.
    static func step() -> StepRequest {
        StepRequest(
            model: ModelID(7), queryMode: .replicate, wantsLSE: true, timeoutMilliseconds: 2500,
            entries: [
                .init(sequence: SequenceID(1), position: 40, count: 1),
                .init(sequence: SequenceID(2), position: 0, count: 2),
            ], queryDataType: .float32, keyValueDataType: .bfloat16, queryHeads: 2, kvHeads: 1, keyDim: 8, valueDim: 6,
            keyValueTokens: 3, tensors: bytes(2 * 3 * 8 * 4 + 3 * (8 + 6) * 2))
    }

    static func bytes(_ count: Int) -> ByteBuffer {
        ByteBuffer(bytes: (0..<count).map { UInt8(truncatingIfNeeded: $0) })
    }

    static func frame(_ message: Message) -> Frame {
        Frame(
            epoch: Epoch(6), tag: Tag(client: ClientID(0xABCD), number: 17, layer: 2), sender: RankIndex(1),
            message: message)
    }
}

/// Every stored value of anything, buffers by their readable bytes; a round trip must keep them.
func structure(_ value: Any) -> String {
    if let buffer = value as? ByteBuffer { return "\(Array(buffer.readableBytesView))" }
    let children = Mirror(reflecting: value).children
    guard !children.isEmpty else { return "\(value)" }
    return "(" + children.map { "\($0.label ?? "_"): \(structure($0.value))" }.joined(separator: ", ") + ")"
}

/// Testing has another type of this name.
typealias Tag = DCPWire.Tag
