internal import CSystemd

/// What systemd is told. Without systemd (no `NOTIFY_SOCKET`) each call does nothing.
enum ServiceManager {
    /// The daemon serves: `systemctl start` returns now.
    static func ready(status: String) { notify("READY=1\nSTATUS=\(status)") }
    /// One line for `systemctl status`.
    static func status(_ status: String) { notify("STATUS=\(status)") }
    static func stopping() { notify("STOPPING=1\nSTATUS=stopping") }

    private static func notify(_ state: String) {
        // sd_notify(3): negative on failure, which leaves nothing to do; systemd then times the start out.
        _ = sd_notify(0, state)
    }
}
