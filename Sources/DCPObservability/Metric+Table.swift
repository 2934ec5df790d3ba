// SPDX-License-Identifier: Apache-2.0

/// Every metric there is. Names after https://prometheus.io/docs/practices/naming: base units, `_total` for counters, and no
/// unit hidden in a label.
extension Metric {
    // MARK: Both daemons

    public static let buildInfo = Metric(
        "dcp_build_info", .gauge, [.rank, .coordinator], labels: ["version", "kernels"],
        "Always 1; the labels have the release and the chosen kernels.", "`kernels` is empty for a coordinator.")
    public static let startTime = Metric(
        "process_start_time_seconds", .gauge, [.rank, .coordinator], "Start time of the process, seconds since 1970.",
        "It changes at a restart.")
    public static let residentBytes = Metric(
        "process_resident_memory_bytes", .gauge, [.rank, .coordinator], "Resident memory of the process.",
        "Includes cached pages of the mapped store; `dcp_open_block_bytes` is what the rank itself holds.")
    public static let epoch = Metric(
        "dcp_epoch", .gauge, [.rank, .coordinator], "The membership's epoch.",
        "Rises when a lost rank comes back. Frequent changes without a restart by you mean that a rank keeps failing.")
    public static let connections = Metric(
        "dcp_connections", .gauge, [.rank, .coordinator],
        "Open connections of clients, and on the coordinator also of ranks.",
        "A rank's peers are in `dcp_peers_connected`.")
    public static let framesRefused = Metric(
        "dcp_frames_refused_total", .counter, [.rank, .coordinator], labels: ["cause"],
        "Frames that caused the connection to be closed, by cause.",
        "Includes peers refused at the hello. `incompatible`: another release or cluster; "
            + "`protocol_violation`: not this protocol, or damage in transit.")
    public static let connectionsRefused = Metric(
        "dcp_connections_refused_total", .counter, [.rank, .coordinator], labels: ["cause"],
        "Refused connections, by cause.",
        "Users and certificates without access, too many or too slow connections, or another protocol; the causes "
            + "are those in the journal's DCP_CAUSE.")
    public static let certificateEnd = Metric(
        "dcp_certificate_end_timestamp_seconds", .gauge, [.rank, .coordinator],
        "End of validity of the daemon's certificate, seconds since 1970.", "Absent without TLS.")

    // MARK: Steps

    public static let stepDuration = Metric(
        "dcp_step_duration_seconds", .histogram, [.rank], labels: ["kind"],
        "Duration of completed steps, each of one layer, from the request's arrival to the reply.",
        "`decode` steps have one token per sequence, `prefill` steps more. Includes the canary's steps.")
    public static let stepCompute = Metric(
        "dcp_step_compute_seconds", .histogram, [.rank],
        "Time that a completed step spends in attention on this rank, over the context and the new tokens.")
    public static let stepExchange = Metric(
        "dcp_step_exchange_wait_seconds", .histogram, [.rank],
        "Time that a completed step waits for other ranks' queries and partial results.",
        "Includes the wait for a slower rank, and for queries also the wait for earlier steps of the sequence.")
    public static let stepsAborted = Metric(
        "dcp_steps_aborted_total", .counter, [.rank], labels: ["cause"], "Steps aborted or refused, by cause.",
        "`stale_epoch` and `rank_unavailable` accompany a change of membership and are retried.")
    public static let stepsInFlight = Metric("dcp_steps_in_flight", .gauge, [.rank], "Steps in flight.")
    public static let stepBytesInFlight = Metric(
        "dcp_step_in_flight_bytes", .gauge, [.rank], "Memory held by the steps in flight.")
    public static let tokens = Metric(
        "dcp_step_tokens_total", .counter, [.rank], "Tokens of completed steps, counted at the first layer.",
        "Every rank of a head group receives every token: for a cluster use the largest rate, not the sum.")

    // MARK: Commits and the store

    public static let commitDuration = Metric(
        "dcp_commit_duration_seconds", .histogram, [.rank],
        "Duration of successful commits, from the request's arrival to the answer.",
        "Includes the wait for the writer, and with `durability: always` the sync.")
    public static let commitsFailed = Metric(
        "dcp_commits_failed_total", .counter, [.rank], labels: ["cause"], "Commits that failed, by cause.")
    public static let prefixMatches = Metric(
        "dcp_prefix_matches_total", .counter, [.rank], labels: ["result"],
        "Searches for the stored sequence that shares the longest prefix with some token ids.",
        "`found`, `missed`: no sequence begins with the first id, or `failed`. A client asks one rank at a time: sum over "
            + "ranks.")
    public static let prefixMatchTokens = Metric(
        "dcp_prefix_match_tokens", .histogram, [.rank], "Length of the prefixes found, in tokens.",
        "The sum is the number of tokens that need no prefill.")
    public static let commitsInFlight = Metric("dcp_commits_in_flight", .gauge, [.rank], "Commits in flight.")
    public static let storeUsed = Metric(
        "dcp_store_used_bytes", .gauge, [.rank], "Bytes of the store's pages in use.")
    public static let storeFile = Metric(
        "dcp_store_file_bytes", .gauge, [.rank],
        "Size of the store's data file on the disk.")
    public static let storeLimit = Metric(
        "dcp_store_limit_bytes", .gauge, [.rank], "Size limit of the store.",
        "From `disk-limit` or `map-size`.")
    public static let storeHigh = Metric(
        "dcp_store_high_watermark_bytes", .gauge, [.rank],
        "High watermark: from this many used bytes on, the rank refuses new tokens.")
    public static let storeLow = Metric(
        "dcp_store_low_watermark_bytes", .gauge, [.rank],
        "Low watermark: below this many used bytes, the rank accepts new tokens again.")
    public static let storeDeleting = Metric(
        "dcp_store_deleting_bytes", .gauge, [.rank], "Bytes of closed sequences that are not deleted yet.")
    public static let storeCondition = Metric(
        "dcp_store_condition", .gauge, [.rank], labels: ["condition"],
        "1 for the store's current condition, 0 for the others.",
        "`writable`; `full`: above the watermark; `refused`: the disk refuses writes; `failed`: nothing is written any "
            + "more, restart the rank.")
    public static let storeTransactions = Metric(
        "dcp_store_transactions_total", .counter, [.rank], "Write transactions committed.",
        "Fewer than commits if several commits share one.")
    public static let storeReaders = Metric(
        "dcp_store_readers", .gauge, [.rank], "Active readers of the store.")
    public static let verifications = Metric(
        "dcp_store_verifications_total", .counter, [.rank], "Verifications of the store since the start.")
    public static let verificationRunning = Metric(
        "dcp_store_verification_running", .gauge, [.rank], "1 while a verification runs.")
    public static let verificationDamage = Metric(
        "dcp_store_damage_found", .gauge, [.rank], "Damaged values that the last verification has found so far.",
        "Zero before the first; `dcpctl verify` runs one.")

    // MARK: What a rank holds

    public static let sequences = Metric("dcp_sequences", .gauge, [.rank], "Sequences in the store.")
    public static let committedTokens = Metric(
        "dcp_committed_tokens", .gauge, [.rank], "Committed tokens that this rank owns, over all sequences.")
    public static let sealedBlocks = Metric(
        "dcp_sealed_blocks", .gauge, [.rank], "Blocks in the store, each of one layer.")
    public static let piecedBlocks = Metric(
        "dcp_pieced_blocks", .gauge, [.rank], "Blocks that the store holds in pieces.",
        "The free pages of a nearly full store are scattered, and no run was long enough for the block. Each step "
            + "that reads such a block copies it; after sequences are closed, blocks are made whole again.")
    public static let openBlockBytes = Metric(
        "dcp_open_block_bytes", .gauge, [.rank], "RAM used by open and uncommitted blocks.")
    public static let residentSequences = Metric(
        "dcp_resident_sequences", .gauge, [.rank], "Sequences with blocks in RAM.",
        "The others were idle for `memory-idle`, or were dropped from RAM to stay within `memory-limit`.")
    public static let indexBytes = Metric(
        "dcp_index_bytes", .gauge, [.rank], "RAM used by the index of their blocks in the store.")
    public static let spareBlockBytes = Metric(
        "dcp_spare_block_bytes", .gauge, [.rank], "RAM of unused blocks kept for reuse.")
    public static let uncommittedBytes = Metric(
        "dcp_uncommitted_bytes", .gauge, [.rank], "Uncommitted keys and values in RAM.",
        "Limited by `uncommitted-limit`; from half of it on, full blocks are spilled to the store.")
    public static let spilledBytes = Metric(
        "dcp_spilled_bytes", .gauge, [.rank], "Uncommitted keys and values spilled to the store.",
        "Limited by the store's free room.")
    public static let spilledBlocks = Metric(
        "dcp_spilled_blocks_total", .counter, [.rank], "Spilled blocks, each of one layer.",
        "The commit does not write them again.")
    public static let uncommittedLimit = Metric(
        "dcp_uncommitted_limit_bytes", .gauge, [.rank], "Limit of uncommitted keys and values in RAM.")
    public static let claimsEnded = Metric(
        "dcp_claims_ended_total", .counter, [.rank],
        "Clients that were gone for `claim-timeout` and whose uncommitted tokens were rolled back.")

    // MARK: A rank and its threads, peers and coordinator

    public static let computeThreads = Metric("dcp_compute_threads", .gauge, [.rank], "Compute threads.")
    public static let computeWaiting = Metric(
        "dcp_compute_jobs_waiting", .gauge, [.rank], "Computations waiting for a thread.")
    public static let computeRunning = Metric("dcp_compute_jobs_running", .gauge, [.rank], "Running computations.")
    public static let computeFinished = Metric(
        "dcp_compute_jobs_total", .counter, [.rank], "Finished computations.")
    public static let serving = Metric(
        "dcp_serving", .gauge, [.rank],
        "1 while the rank serves steps, 0 while the cluster is incomplete or joining, or the rank is stopping.")
    public static let coordinatorConnected = Metric(
        "dcp_coordinator_connected", .gauge, [.rank], "1 while the rank is connected to its coordinator.",
        "Without the coordinator a rank keeps serving in its epoch.")
    public static let peers = Metric("dcp_peers", .gauge, [.rank], "Other ranks of the head group.")
    public static let peersConnected = Metric(
        "dcp_peers_connected", .gauge, [.rank], "Connected ranks of the head group, without this one.")
    public static let peersSharingMemory = Metric(
        "dcp_peers_sharing_memory", .gauge, [.rank],
        "Other ranks of the head group with which the rank shares memory.",
        "These are ranks on the same host, if `shared-memory` is on.")
    public static let peersLost = Metric("dcp_peers_lost_total", .counter, [.rank], "Lost connections to peers.")
    public static let receivedBytes = Metric(
        "dcp_received_bytes_total", .counter, [.rank], "Bytes received from clients and peers.")
    public static let sentBytes = Metric("dcp_sent_bytes_total", .counter, [.rank], "Bytes sent to clients and peers.")
    public static let memoryPayloads = Metric(
        "dcp_shared_memory_payloads_total", .counter, [.rank],
        "Payloads written to memory shared with peers.")
    public static let memoryBytes = Metric(
        "dcp_shared_memory_bytes_total", .counter, [.rank], "Bytes written to memory shared with peers.",
        "Not included in `dcp_sent_bytes_total`.")
    public static let memoryFallbacks = Metric(
        "dcp_shared_memory_fallbacks_total", .counter, [.rank],
        "Payloads that did not fit into shared memory and went over the connection.",
        "The peer is slow, or there are many large steps at once.")

    // MARK: The coordinator

    public static let clusterReady = Metric(
        "dcp_cluster_ready", .gauge, [.coordinator], "1 while all ranks are registered and hold the same data.")
    public static let clusterRanks = Metric(
        "dcp_cluster_ranks", .gauge, [.coordinator],
        "Number of ranks of the cluster.")
    public static let rankRegistered = Metric(
        "dcp_rank_registered", .gauge, [.coordinator], labels: ["peer"],
        "1 for each rank that holds its lease, 0 for the others."
    )
    public static let ranksLost = Metric(
        "dcp_ranks_lost_total", .counter, [.coordinator], labels: ["peer"],
        "How often a rank's lease or connection was lost, by rank.")
    public static let storeMark = Metric(
        "dcp_rank_store_mark", .gauge, [.coordinator], labels: ["peer"],
        "The last durable change recorded for a rank's store, by rank.",
        "A copy of the store below this change is refused as an older one.")
    public static let storesRefused = Metric(
        "dcp_stores_refused_total", .counter, [.coordinator], labels: ["peer", "cause"],
        "Processes refused because they use a copy of a rank's store, by rank and cause.",
        "`older_store`: it is behind the last durable change. `second_holder`: another running process uses the store.")
    public static let cutSequences = Metric(
        "dcp_sequences_cut_total", .counter, [.coordinator],
        "Sequences that lost committed tokens at a join because not all ranks had them.",
        "The journal names them. A few: their commits were in progress when a rank stopped. Many: a store has lost "
            + "committed data, or an older copy was accepted in its place."
    )
    public static let cutTokens = Metric(
        "dcp_committed_tokens_cut_total", .counter, [.coordinator], "Committed tokens lost at joins.")
    public static let models = Metric("dcp_directory_models", .gauge, [.coordinator], "Models in the directory.")
    public static let directorySequences = Metric(
        "dcp_directory_sequences", .gauge, [.coordinator], "Sequences in the directory.")
    public static let pinnedSequences = Metric(
        "dcp_directory_pinned_sequences", .gauge, [.coordinator], "Sequences that are never evicted.")
    public static let evictions = Metric(
        "dcp_evictions_total", .counter, [.coordinator], labels: ["cause"],
        "Sequences that the coordinator closed on its own, by cause.",
        "`room`: a store was full; with `evict: off` only sequences closed with `--keep`. `age`: their time to live "
            + "was over.")
    public static let operationsFailed = Metric(
        "dcp_operations_failed_total", .counter, [.coordinator], labels: ["cause"],
        "Changes of the directory that a rank refused, by cause.")
    public static let canaryInterval = Metric(
        "dcp_canary_interval_seconds", .gauge, [.rank, .coordinator],
        "Expected interval of canaries; 0 if canaries are off.")
    public static let canaryLast = Metric(
        "dcp_canary_last_success_timestamp_seconds", .gauge, [.rank, .coordinator],
        "Time of the last successful canary, seconds since 1970; 0 before the first.",
        "A rank reports its own part.")
    public static let canaryDuration = Metric(
        "dcp_canary_duration_seconds", .histogram, [.coordinator],
        "Duration of successful canaries, through all ranks.")
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
