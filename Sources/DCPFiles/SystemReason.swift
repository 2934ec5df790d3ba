// SPDX-License-Identifier: Apache-2.0

internal import Foundation

/// The reason for a Foundation error in the system's words: `No space left on device`. Foundation's own texts have
/// domains and numbers of another operating system.
package func systemReason(_ error: any Error) -> String {
    switch error {
    case let error as DecodingError:
        switch error {
        case .dataCorrupted(let context), .typeMismatch(_, let context), .valueNotFound(_, let context),
            .keyNotFound(_, let context):
            return context.debugDescription
        @unknown default: return "it is not what is expected there"
        }
    case let error as POSIXError: return systemMessage(error.code.rawValue)
    default:
        let error = error as NSError
        if error.domain == NSPOSIXErrorDomain { return systemMessage(Int32(error.code)) }
        guard let cause = error.userInfo[NSUnderlyingErrorKey] as? any Error else {
            return error.code == CocoaError.fileWriteOutOfSpace.rawValue
                ? systemMessage(ENOSPC) : error.localizedDescription
        }
        return systemReason(cause)
    }
}
