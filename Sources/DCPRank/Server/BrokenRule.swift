// SPDX-License-Identifier: Apache-2.0

/// A rule that a rank breaks on purpose: a simulation that does not notice would notice nothing else either.
///
/// nil in every daemon; only `package` code can set it.
package enum BrokenRule: String, CaseIterable, Sendable {
    /// Answers a commit before the store has it.
    case commit
    /// Serves requests of any epoch.
    case epoch
    /// Replies to a step before its tokens are in the cache.
    case append
    /// Uses the first position of a window as a local index.
    case window
    /// Counts a head's sink in each part of its attention, and not once at the end.
    case sink
    /// Promises one token more than a match has compared.
    case match
    /// Gives free threads to prefills before decode steps.
    case turns
}
