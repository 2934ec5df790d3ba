// SPDX-License-Identifier: Apache-2.0

/// When a commit reaches the disk. Every completed commit survives the death of this process.
///
/// | setting | what is lost with the process | with power or the kernel |
/// |---|---|---|
/// | `always` | nothing | nothing that was acknowledged |
/// | `everysec` | nothing | up to the last second; if the disk reorders writes, possibly the file (then refused) |
/// | `never` | nothing | whatever the kernel had not written; possibly the file (then refused) |
///
/// `everysec` syncs a second after the first commit that is not synced, on the writer's thread; an idle store sets no
/// timer.
///
/// `everysec` and `never` run LMDB with `MDB_NOSYNC`; lmdb.h: "a system crash can then corrupt the database or lose the
/// last transactions if buffers are not yet flushed to disk [...] if the filesystem preserves write order and the
/// MDB_WRITEMAP flag is not used, transactions exhibit ACI properties and only lose D". The KV cache of one rank can be
/// rebuilt by prefill, so `everysec` is the default.
public enum Durability: String, CaseIterable, Sendable {
    case always
    case everysec
    case never
}
