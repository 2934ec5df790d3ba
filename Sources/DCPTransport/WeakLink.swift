// SPDX-License-Identifier: Apache-2.0

internal import NIOCore

/// Timers, write completions and calls under way must not keep a link alive. There is one for each link: copying a weak reference
/// takes longer than copying a reference to what has one.
final class WeakLink {
    private(set) weak var link: Link?

    init(_ link: Link) { self.link = link }
}

extension Link {
    /// For whoever answers it later.
    var weak: WeakLink { bound.value }
}
