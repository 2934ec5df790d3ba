// SPDX-License-Identifier: Apache-2.0

import DCPConsole
import DCPCore
import DCPTestKit
import Foundation
import Glibc
import Testing

@Suite("Standard output")
struct StandardOutputTests {
    @Test("all of a text is written, also to a pipe that takes it in parts")
    func whole() async throws {
        let text = String(repeating: "caf\u{e9} ", count: 100_000)
        let pipe = Pipe()
        let read = Task.detached { try pipe.fileHandleForReading.readToEnd() }
        try StandardOutput.write(text, to: pipe.fileHandleForWriting.fileDescriptor)
        try pipe.fileHandleForWriting.close()
        #expect(try await read.value == Data(text.utf8))
    }

    @Test("a full disk and a closed stream are errors with the system's reason")
    func refused() throws {
        let full = open("/dev/full", O_WRONLY | O_CLOEXEC)
        defer { close(full) }
        for (descriptor, reason) in [(full, "No space left on device"), (-1, "Bad file descriptor")] {
            let error = #expect(throws: ServiceError.self) { try StandardOutput.write("a", to: descriptor) }
            #expect(error?.code == .invalidRequest && error?.message.contains(reason) == true)
        }
    }

    @Test("a reader that has gone ends the program as SIGPIPE does, even where that signal is ignored")
    func readerGone() async throws {
        await #expect(processExitsWith: .signal(SIGPIPE)) {
            signal(SIGPIPE, SIG_IGN)
            let pipe = Pipe()
            try pipe.fileHandleForReading.close()
            do {
                try StandardOutput.write("a", to: pipe.fileHandleForWriting.fileDescriptor)
            } catch let gone as StandardOutput.ReaderGone {
                gone.endProgram()
            }
        }
    }
}
