// SPDX-License-Identifier: Apache-2.0

import ArgumentParser
import DCPBench
import DCPConsole
import DCPCore
import Glibc
import UnixSignals

/// Runs a command's body and ends with its exit status; the error goes to standard error, once.
func execute(_ body: () async throws -> Void) async throws {
    do {
        try await body()
    } catch let error as ServiceError {
        printMessage("\(error)")
        throw ExitCode(ExitStatus(error).rawValue)
    } catch let gone as StandardOutput.ReaderGone {
        gone.endProgram()
    } catch is CancellationError {
        printMessage("interrupted")
        throw ExitCode(128 + SIGINT)
    }
}

/// Runs a body that SIGINT, SIGTERM and SIGHUP, of a terminal that closes, interrupt and cancel; it has ended when this
/// returns. Under nohup, SIGHUP stays ignored.
func interruptible<Value: Sendable>(
    _ interruption: Interruption, _ body: @escaping @Sendable () async throws -> Value
) async throws -> Value {
    var hangUp = sigaction()
    let ignoresHangUp =
        sigaction(SIGHUP, nil, &hangUp) == 0
        && unsafeBitCast(hangUp.__sigaction_handler.sa_handler, to: Int.self) == unsafeBitCast(SIG_IGN, to: Int.self)
    let trapped: [UnixSignal] = ignoresHangUp ? [.sigint, .sigterm] : [.sigint, .sigterm, .sighup]
    let signals = await UnixSignalsSequence(trapping: trapped)
    return try await withThrowingTaskGroup(of: Value?.self) { group in
        group.addTask { try await body() }
        group.addTask {
            for await _ in signals { break }
            // Also when the group is cancelled, the measurement being done.
            interruption.interrupt()
            return nil
        }
        do {
            for try await value in group {
                group.cancelAll()
                if let value { return value }
            }
        } catch {
            // After a signal, what fails fails by it.
            try interruption.check()
            throw error
        }
        throw CancellationError()
    }
}

/// A message for people: on standard error, with the program's name.
func printMessage(_ text: String) {
    let bytes = Array("dcp-bench: \(text)\n".utf8)
    // If the message cannot be written, there is nowhere to report it.
    _ = write(STDERR_FILENO, bytes, bytes.count)
}
