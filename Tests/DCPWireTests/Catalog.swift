// SPDX-License-Identifier: Apache-2.0

import DCPCore
import DCPWire

/// The bodies of all requests and replies, so that tests can read whichever comes.
enum Catalog {
    static let requests: [any Request.Type] = [
        GetTopology.self, ListModels.self, ListSequences.self, Many<RegisterModel>.self, Many<RemoveModel>.self,
        Many<OpenSequence>.self, Many<OpenCanary>.self, Many<ClaimSequence>.self, Many<ForkSequence>.self,
        Many<TruncateSequence>.self, Many<CloseSequence>.self, Many<RetainSequence>.self, Many<OpenMatching>.self,
        StepRequest.self, Commit.self,
        Many<GetSequenceStatus>.self, Many<CutUncommitted>.self, RowsRequest.self, GetRankStatus.self,
        VerificationRequest.self, GetHostReport.self, ReadTokens.self, MatchTokens.self, ListStores.self,
        GiveUpStore.self, Many<BeginCopy>.self, ReadCopy.self, EndCopy.self,
    ]

    /// Of every kind of frame.
    static let types = FrameType.notices + requests.flatMap { [$0.type, $0.type.reply] }

    /// What a frame says: of a request or a reply, its body.
    static func contents(of frame: Frame) throws(ServiceError) -> any Sendable {
        switch frame.message {
        case .request(let body), .reply(let body):
            for request in requests where body.type == request.type || body.type == request.type.reply {
                return try contents(of: body, request)
            }
            throw ServiceError(.protocolViolation, "\(body.type) is unknown.")
        default: return frame.message
        }
    }

    /// All that a frame says, envelope included, to compare.
    static func text(of frame: Frame) throws(ServiceError) -> String {
        "\(frame.epoch) \(structure(frame.tag)) \(structure(frame.sender as Any)) \(structure(try contents(of: frame)))"
    }

    private static func contents<R: Request>(of body: EncodedBody, _ request: R.Type) throws(ServiceError)
        -> any Sendable
    {
        body.type == R.type ? try body.request(as: request) : try body.reply(to: request)
    }

    /// The same frame, made anew from what it says.
    static func rewritten(_ frame: Frame) throws(ServiceError) -> Frame {
        var frame = frame
        switch frame.message {
        case .request(let body), .reply(let body):
            for request in requests where body.type == request.type || body.type == request.type.reply {
                frame.message = try rewritten(body, request)
            }
        default: break
        }
        return frame
    }

    private static func rewritten<R: Request>(_ body: EncodedBody, _ request: R.Type) throws(ServiceError) -> Message {
        body.type == R.type
            ? .request(try body.request(as: request)) : .reply(try body.reply(to: request), to: request)
    }
}
