// SPDX-License-Identifier: Apache-2.0

internal import Glibc

/// How many connections the descriptors of this process allow.
///
/// A daemon without a free descriptor can neither accept nor refuse, and answers no probe. So connections are refused before
/// that, with a reason, and the rest is kept for what a daemon needs besides.
enum Descriptors {
    /// For the HTTP endpoint, whose probes come when nothing else does.
    private static let reservedForHTTP = HTTPService.connectionsMax + 2
    /// Store, log, event loops, certificates being read, a connection that is being refused.
    private static let reservedForItself = 24
    /// At most this share of what is left is for those who dial in: a rank dials its peers and the coordinator.
    private static let shareOfIncoming = 2

    /// Raises the soft limit as far as the units ask for: a shell's is 1024, and the hard limit far above.
    static let connectionsMax: Int = {
        var limit = rlimit()
        guard getrlimit(__rlimit_resource_t(RLIMIT_NOFILE.rawValue), &limit) == 0 else { return .max }
        let wanted = min(limit.rlim_max, 4096)
        if limit.rlim_cur < wanted {
            limit.rlim_cur = wanted
            _ = setrlimit(__rlimit_resource_t(RLIMIT_NOFILE.rawValue), &limit)
            getrlimit(__rlimit_resource_t(RLIMIT_NOFILE.rawValue), &limit)
        }
        let left = Int(clamping: limit.rlim_cur) - reservedForHTTP - reservedForItself
        return max(2, left / shareOfIncoming)
    }()
}
