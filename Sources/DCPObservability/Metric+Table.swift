/// Every metric there is. Names after https://prometheus.io/docs/practices/naming: base units, `_total` for counters, and no
/// unit hidden in a label.
extension Metric {
    // MARK: Both daemons

    public static let buildInfo = Metric(
        "dcp_build_info", .gauge, [.rank, .coordinator], labels: ["version", "kernels"],
        "Always 1; the release, and the kernels that were chosen.", "`kernels` is empty for a coordinator.")
    public static let startTime = Metric(
        "process_start_time_seconds", .gauge, [.rank, .coordinator], "When the process began, seconds since 1970.",
        "A step in it is a restart.")
    public static let residentBytes = Metric(
        "process_resident_memory_bytes", .gauge, [.rank, .coordinator], "Memory of the process that is in RAM.",
        "Pages of the mapped store count while they are cached; `dcp_open_block_bytes` is what a rank itself holds.")
    public static let epoch = Metric(
        "dcp_epoch", .gauge, [.rank, .coordinator], "The membership's epoch.",
        "Rises when a lost rank comes back. Often without a restart of yours: a rank does not stay.")
    public static let connections = Metric(
        "dcp_connections", .gauge, [.rank, .coordinator], "Open connections of clients; a coordinator's ranks too.",
        "A rank's peers are in `dcp_peers_connected`.")
    public static let framesRefused = Metric(
        "dcp_frames_refused_total", .counter, [.rank, .coordinator], labels: ["cause"],
        "Frames after which the connection was closed, by cause.",
        "Also peers that were turned away at the hello. `incompatible`: another release or cluster; "
            + "`protocol_violation`: not this protocol, or damage on the way.")
    public static let connectionsRefused = Metric(
        "dcp_connections_refused_total", .counter, [.rank, .coordinator], labels: ["cause"],
        "Connections that were refused, by cause.",
        "Users and certificates that are not let in, too many, too slow, or not of this protocol; the causes are those of "
            + "the journal's DCP_CAUSE.")
    public static let certificateEnd = Metric(
        "dcp_certificate_end_timestamp_seconds", .gauge, [.rank, .coordinator],
        "When the daemon's certificate ends, seconds since 1970.", "There is none without TLS.")

    // MARK: Steps

    public static let stepDuration = Metric(
        "dcp_step_duration_seconds", .histogram, [.rank], labels: ["kind"],
        "Completed steps of one layer, from the request's arrival to the reply.",
        "`decode` brings one token a sequence, `prefill` more. The canary's steps are in it.")
    public static let stepCompute = Metric(
        "dcp_step_compute_seconds", .histogram, [.rank],
        "Of completed steps: attention on this rank, over the context and the new tokens, added up.")
    public static let stepExchange = Metric(
        "dcp_step_exchange_wait_seconds", .histogram, [.rank],
        "Of completed steps: waiting for other ranks' queries and partial results.",
        "The wait for a slower rank is in it, and for queries also the wait for earlier steps of the sequence.")
    public static let stepsAborted = Metric(
        "dcp_steps_aborted_total", .counter, [.rank], labels: ["cause"], "Steps aborted or refused, by cause.",
        "`stale_epoch` and `rank_unavailable` come with a change of membership and are retried.")
    public static let stepsInFlight = Metric("dcp_steps_in_flight", .gauge, [.rank], "Steps begun and not ended.")
    public static let stepBytesInFlight = Metric(
        "dcp_step_in_flight_bytes", .gauge, [.rank], "Memory that the steps in flight hold.")
    public static let tokens = Metric(
        "dcp_step_tokens_total", .counter, [.rank], "Tokens that completed steps brought, counted at the first layer.",
        "Every rank of a head group is sent every token: for a cluster take the largest rate, not the sum.")

    // MARK: Commits and the store

    public static let commitDuration = Metric(
        "dcp_commit_duration_seconds", .histogram, [.rank],
        "Commits that succeeded, from the request's arrival to the answer.",
        "The wait for the writer is in it, and with `durability: always` the sync.")
    public static let commitsFailed = Metric(
        "dcp_commits_failed_total", .counter, [.rank], labels: ["cause"], "Commits that failed, by cause.")
    public static let prefixMatches = Metric(
        "dcp_prefix_matches_total", .counter, [.rank], labels: ["result"],
        "Searches for the stored sequence that begins with the most of some token ids.",
        "`found`, `missed`: no sequence begins with the first id, or `failed`. A client asks one rank at a time: sum over "
            + "ranks.")
    public static let prefixMatchTokens = Metric(
        "dcp_prefix_match_tokens", .histogram, [.rank], "Tokens of the prefixes that were found.",
        "The sum is what need not be prefilled again.")
    public static let commitsInFlight = Metric("dcp_commits_in_flight", .gauge, [.rank], "Commits not answered yet.")
    public static let storeUsed = Metric(
        "dcp_store_used_bytes", .gauge, [.rank], "Pages of the store that hold something.")
    public static let storeFile = Metric("dcp_store_file_bytes", .gauge, [.rank], "What the store's data file takes.")
    public static let storeLimit = Metric(
        "dcp_store_limit_bytes", .gauge, [.rank], "The most that the store may hold.",
        "From `disk-limit` or `map-size`.")
    public static let storeHigh = Metric(
        "dcp_store_high_watermark_bytes", .gauge, [.rank], "From so many used bytes on new tokens are refused.")
    public static let storeLow = Metric(
        "dcp_store_low_watermark_bytes", .gauge, [.rank], "Below so many used bytes new tokens are taken again.")
    public static let storeDeleting = Metric(
        "dcp_store_deleting_bytes", .gauge, [.rank], "Blocks of closed sequences that are still to be deleted.")
    public static let storeCondition = Metric(
        "dcp_store_condition", .gauge, [.rank], labels: ["condition"], "1 for the condition the store is in, else 0.",
        "`writable`; `full`: above the watermark; `refused`: by the disk; `failed`: nothing is written any more, restart "
            + "the rank.")
    public static let storeTransactions = Metric(
        "dcp_store_transactions_total", .counter, [.rank], "Write transactions committed.",
        "Fewer than commits when several share one.")
    public static let storeReaders = Metric(
        "dcp_store_readers", .gauge, [.rank], "Readers of the store that are alive.")
    public static let verifications = Metric(
        "dcp_store_verifications_total", .counter, [.rank], "Verifications of the store begun since the start.")
    public static let verificationRunning = Metric(
        "dcp_store_verification_running", .gauge, [.rank], "1 while a verification runs.")
    public static let verificationDamage = Metric(
        "dcp_store_damage_found", .gauge, [.rank], "Damaged values that the last verification found, so far.",
        "Zero before the first; `dcpctl verify` runs one.")

    // MARK: What a rank holds

    public static let sequences = Metric("dcp_sequences", .gauge, [.rank], "Sequences in the store.")
    public static let committedTokens = Metric(
        "dcp_committed_tokens", .gauge, [.rank], "Committed tokens that this rank owns, over all sequences.")
    public static let sealedBlocks = Metric(
        "dcp_sealed_blocks", .gauge, [.rank], "Blocks in the store, each of one layer.")
    public static let piecedBlocks = Metric(
        "dcp_pieced_blocks", .gauge, [.rank], "Blocks in the store that are in pieces.",
        "The free pages of a store that is nearly full lie apart, and no run was as long as the block. Each step that reads "
            + "one copies it; closing sequences makes room in which they become whole.")
    public static let openBlockBytes = Metric(
        "dcp_open_block_bytes", .gauge, [.rank], "RAM in open and uncommitted blocks.")
    public static let residentSequences = Metric(
        "dcp_resident_sequences", .gauge, [.rank], "Sequences that have something in RAM.",
        "The others have been idle for `memory-idle`, or made room under `memory-limit`.")
    public static let indexBytes = Metric(
        "dcp_index_bytes", .gauge, [.rank], "RAM in which it is noted where their blocks are in the store.")
    public static let spareBlockBytes = Metric(
        "dcp_spare_block_bytes", .gauge, [.rank], "RAM of blocks that is kept for later ones.")
    public static let uncommittedBytes = Metric(
        "dcp_uncommitted_bytes", .gauge, [.rank], "Rows appended and not committed, in RAM.",
        "Bounded by `uncommitted-limit`, from half of which on full blocks are spilled to the store.")
    public static let spilledBytes = Metric(
        "dcp_spilled_bytes", .gauge, [.rank], "Rows appended and not committed that were spilled to the store.",
        "Bounded by the store's room.")
    public static let spilledBlocks = Metric(
        "dcp_spilled_blocks_total", .counter, [.rank], "Blocks that were spilled, each of one layer.",
        "The commit does not write them again.")
    public static let uncommittedLimit = Metric(
        "dcp_uncommitted_limit_bytes", .gauge, [.rank], "RAM for rows that are appended and not committed.")
    public static let claimsEnded = Metric(
        "dcp_claims_ended_total", .counter, [.rank],
        "Clients that were gone for `claim-timeout` with uncommitted tokens, which were taken back.")

    // MARK: A rank and its threads, peers and coordinator

    public static let computeThreads = Metric("dcp_compute_threads", .gauge, [.rank], "Compute threads.")
    public static let computeWaiting = Metric(
        "dcp_compute_jobs_waiting", .gauge, [.rank], "Computations that no thread has taken up.")
    public static let computeRunning = Metric("dcp_compute_jobs_running", .gauge, [.rank], "Computations that run.")
    public static let computeFinished = Metric(
        "dcp_compute_jobs_total", .counter, [.rank], "Computations that have ended.")
    public static let serving = Metric(
        "dcp_serving", .gauge, [.rank],
        "1 when steps are served, 0 while the cluster is incomplete, joining, or stopping.")
    public static let coordinatorConnected = Metric(
        "dcp_coordinator_connected", .gauge, [.rank], "1 while the rank is connected to its coordinator.",
        "Without it a rank serves on, in the epoch it has.")
    public static let peers = Metric("dcp_peers", .gauge, [.rank], "Other ranks of the head group.")
    public static let peersConnected = Metric(
        "dcp_peers_connected", .gauge, [.rank], "Other ranks of the head group that are connected.")
    public static let peersSharingMemory = Metric(
        "dcp_peers_sharing_memory", .gauge, [.rank],
        "Other ranks of the head group with which the rank shares memory.",
        "Those on its host, where `shared-memory` is on.")
    public static let peersLost = Metric("dcp_peers_lost_total", .counter, [.rank], "Connections to peers that ended.")
    public static let receivedBytes = Metric(
        "dcp_received_bytes_total", .counter, [.rank], "Bytes received from clients and peers.")
    public static let sentBytes = Metric("dcp_sent_bytes_total", .counter, [.rank], "Bytes sent to clients and peers.")
    public static let memoryPayloads = Metric(
        "dcp_shared_memory_payloads_total", .counter, [.rank],
        "Payloads that the rank has put into memory shared with peers.")
    public static let memoryBytes = Metric(
        "dcp_shared_memory_bytes_total", .counter, [.rank], "Bytes of these.",
        "They are not in `dcp_sent_bytes_total`.")
    public static let memoryFallbacks = Metric(
        "dcp_shared_memory_fallbacks_total", .counter, [.rank],
        "Payloads that found no room there, and went over the connection.",
        "A peer that is slow to take them, or many large steps at once.")

    // MARK: The coordinator

    public static let clusterReady = Metric(
        "dcp_cluster_ready", .gauge, [.coordinator], "1 when all ranks are there and hold the same.")
    public static let clusterRanks = Metric("dcp_cluster_ranks", .gauge, [.coordinator], "Ranks that the cluster has.")
    public static let rankRegistered = Metric(
        "dcp_rank_registered", .gauge, [.coordinator], labels: ["peer"], "1 for each rank that holds its lease, else 0."
    )
    public static let ranksLost = Metric(
        "dcp_ranks_lost_total", .counter, [.coordinator], labels: ["peer"],
        "How often a rank's lease or connection was lost, by rank.")
    public static let storeMark = Metric(
        "dcp_rank_store_mark", .gauge, [.coordinator], labels: ["peer"],
        "The change up to which a rank's store is recorded to be on the disk, by rank.",
        "A copy of the store that was made when it stood lower is refused as an older one.")
    public static let storesRefused = Metric(
        "dcp_stores_refused_total", .counter, [.coordinator], labels: ["peer", "cause"],
        "Processes that were refused since they came with a copy of a rank's store, by rank and cause.",
        "`older_store`: it is behind what the store reported. `second_holder`: another process that lives has it.")
    public static let cutSequences = Metric(
        "dcp_sequences_cut_total", .counter, [.coordinator],
        "Sequences of which a join has given up committed tokens, since not all ranks had them.",
        "The journal names them. A few: their commits were under way when a rank stopped. Many: a store has lost what it had "
            + "committed, or an older copy was taken in its place."
    )
    public static let cutTokens = Metric(
        "dcp_committed_tokens_cut_total", .counter, [.coordinator], "Committed tokens that joins have given up.")
    public static let models = Metric("dcp_directory_models", .gauge, [.coordinator], "Models in the directory.")
    public static let directorySequences = Metric(
        "dcp_directory_sequences", .gauge, [.coordinator], "Sequences in the directory.")
    public static let pinnedSequences = Metric(
        "dcp_directory_pinned_sequences", .gauge, [.coordinator], "Sequences that are never evicted.")
    public static let evictions = Metric(
        "dcp_evictions_total", .counter, [.coordinator], labels: ["cause"],
        "Sequences closed that nobody asked to close, by cause.",
        "`room`: a store was full; with `evict: off` only those that were kept for their tokens. `age`: their time to live "
            + "was over.")
    public static let operationsFailed = Metric(
        "dcp_operations_failed_total", .counter, [.coordinator], labels: ["cause"],
        "Changes of the directory that a rank refused, by cause.")
    public static let canaryInterval = Metric(
        "dcp_canary_interval_seconds", .gauge, [.rank, .coordinator],
        "How often a canary is expected; 0 with canaries off.")
    public static let canaryLast = Metric(
        "dcp_canary_last_success_timestamp_seconds", .gauge, [.rank, .coordinator],
        "When a canary last went through, seconds since 1970; 0 before the first.",
        "A rank tells of its own part of it.")
    public static let canaryDuration = Metric(
        "dcp_canary_duration_seconds", .histogram, [.coordinator],
        "Canaries that went through all ranks, from begin to end.")
    public static let canariesFailed = Metric(
        "dcp_canaries_failed_total", .counter, [.coordinator], labels: ["cause"], "Canaries that failed, by cause.")

    /// In the order of exposition and article.
    public static let all: [Metric] = [
        buildInfo, startTime, residentBytes, epoch, connections, framesRefused,
        connectionsRefused, certificateEnd, stepDuration, stepCompute, stepExchange,
        stepsAborted, stepsInFlight, stepBytesInFlight, tokens, commitDuration, commitsFailed, commitsInFlight,
        prefixMatches, prefixMatchTokens,
        storeUsed, storeFile, storeLimit, storeHigh, storeLow, storeDeleting, storeCondition, storeTransactions,
        storeReaders, verifications, verificationRunning, verificationDamage, sequences, committedTokens, sealedBlocks,
        piecedBlocks, openBlockBytes, residentSequences, indexBytes, spareBlockBytes, uncommittedBytes, spilledBytes,
        spilledBlocks, uncommittedLimit,
        claimsEnded, computeThreads, computeWaiting, computeRunning, computeFinished, serving, coordinatorConnected,
        peers, peersConnected, peersSharingMemory, peersLost, receivedBytes, sentBytes, memoryPayloads, memoryBytes,
        memoryFallbacks,
        clusterReady, clusterRanks, rankRegistered, ranksLost, storeMark, storesRefused, cutSequences,
        cutTokens, models, directorySequences,
        pinnedSequences, evictions, operationsFailed, canaryInterval, canaryLast, canaryDuration, canariesFailed,
    ]
}
