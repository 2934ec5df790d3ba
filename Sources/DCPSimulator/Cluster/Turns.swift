// SPDX-License-Identifier: Apache-2.0

internal import DCPRank

/// Which pieces a rank's threads were given, one after the other, and whether that was fair.
///
/// `@unchecked Sendable`: as all of a world.
final class Turns: @unchecked Sendable {
    /// Pieces of the line in a row, while a piece of the other waited all the time.
    private var line: PieceQueue.Line?
    private var count = 0

    /// - Returns: what was not fair.
    func dealt(_ line: PieceQueue.Line, _ waiting: [PieceQueue.Line]) -> String? {
        let others = waiting.filter { $0 != line }
        count = others.isEmpty ? 0 : self.line == line ? count + 1 : 1
        self.line = line
        switch line {
        case .decode where count > PieceQueue.decodesMax:
            return "has computed \(count) pieces of decode steps while a prefill waited"
        case .prefill where count > 1:
            return "has computed \(count) pieces of prefills while a decode step waited"
        case .decode, .prefill: return nil
        }
    }
}
