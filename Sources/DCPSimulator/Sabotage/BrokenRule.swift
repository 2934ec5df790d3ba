// SPDX-License-Identifier: Apache-2.0

/// A rule that the ranks of a simulation break on purpose: a simulation that does not notice would notice nothing else
/// either. `Sabotage` breaks them from outside.
package enum BrokenRule: String, CaseIterable, Sendable {
    /// Answers a commit before the store has it.
    case commit
    /// Answers in the first epoch that it has served, whichever it serves.
    case epoch
    /// Replies to a step before its tokens are in the cache.
    case append
    /// Takes the length of a window for a number of its own tokens.
    case window
    /// Counts a head's sink twice.
    case sink
    /// Promises one token more than a match has compared.
    case match
    /// Gives free threads to prefills before decode steps.
    case turns
    /// Loses a message to another rank now and then.
    case message
}
