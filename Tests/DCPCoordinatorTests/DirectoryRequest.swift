// SPDX-License-Identifier: Apache-2.0

import DCPCoordinator
import DCPCore
import DCPWire

/// One thing that a client asks the directory for, of whichever kind, so that tests can go over several.
enum DirectoryRequest {
    case registerModel(name: String, ModelDescription)
    case removeModel(name: String)
    case openSequence(name: String, model: String, revision: String, create: Bool)
    case openCanary(name: String)
    case truncate(name: String, length: Int, claim: Claim)
    case fork(name: String, newName: String, length: Int, claim: Claim)
    case close(name: String, claim: Claim)
    case pin(name: String)
    case unpin(name: String)
    case claim(SequenceID, held: Claim)

    // A claim is taken first.
    static func truncate(name: String, length: Int) -> Self { .truncate(name: name, length: length, claim: .none) }
    static func fork(name: String, newName: String, length: Int) -> Self {
        .fork(name: name, newName: newName, length: length, claim: .none)
    }
    static func close(name: String) -> Self { .close(name: name, claim: .none) }

    /// The sequence that is to be claimed first, and the request with its claim.
    var claimable: (name: String, stating: (Claim) -> Self)? {
        switch self {
        case .truncate(let name, let length, .none): (name, { .truncate(name: name, length: length, claim: $0) })
        case .fork(let name, let new, let length, .none):
            (name, { .fork(name: name, newName: new, length: length, claim: $0) })
        case .close(let name, .none): (name, { .close(name: name, claim: $0) })
        default: nil
        }
    }

    private var item: any DirectoryItem {
        switch self {
        case .registerModel(let name, let description): RegisterModel(name: name, description)
        case .removeModel(let name): RemoveModel(name: name)
        case .openSequence(let name, let model, let revision, let create):
            OpenSequence(name: name, model: model, revision: revision, create: create)
        case .openCanary(let name): OpenCanary(name: name)
        case .truncate(let name, let length, let claim): TruncateSequence(name: name, length: length, claim: claim)
        case .fork(let name, let newName, let length, let claim):
            ForkSequence(name: name, newName: newName, length: length, claim: claim)
        case .close(let name, let claim): CloseSequence(name: name, claim: claim)
        case .pin(let name): RetainSequence(name: name, isPinned: true)
        case .unpin(let name): RetainSequence(name: name, isPinned: false)
        case .claim(let id, let held): ClaimSequence(id, held: held)
        }
    }

    func send(
        to machine: inout CoordinatorMachine, _ link: LinkID, _ tag: Tag, from caller: Caller, _ now: Duration
    ) -> [CoordinatorMachine.Action] {
        func send<Item: DirectoryItem>(_ item: Item) -> [CoordinatorMachine.Action] {
            machine.requested(Many([item]), link: link, tag: tag, from: caller, now: now)
        }
        return send(item)
    }

    /// Why the request was refused, or the first of its items; nil when none was.
    static func refusal(in message: Message) -> ServiceError? {
        switch message {
        case .failure(let error): return error
        case .reply(let body):
            return (try? DirectoryReply.read(body))?.lazy.compactMap {
                if case .failure(let error) = $0 { error } else { nil }
            }.first
        default: return nil
        }
    }
}

/// What came of it, of whichever kind.
struct DirectoryReply: Equatable {
    var models: [ModelRecord] = []
    var sequences: [SequenceRecord] = []
    var retention: Retention?
    var claim = Claim.none

    /// nil when the message is no reply, or the item was refused.
    init?(_ message: Message) {
        guard case .reply(let body) = message, let first = (try? Self.read(body))?.first,
            case .success(let answer) = first
        else { return nil }
        switch answer {
        case let model as ModelRecord: models = [model]
        case let opened as OpenedSequence: (models, sequences) = ([opened.model], [opened.sequence])
        case let sequence as SequenceRecord: sequences = [sequence]
        case let retention as Retention: self.retention = retention
        case let claim as Claim: self.claim = claim
        default: break
        }
    }

    static func read(_ body: EncodedBody) throws -> [Result<any Sendable, ServiceError>] {
        func answers<Item: RequestItem>(_ item: Item.Type) throws -> [Result<any Sendable, ServiceError>]? {
            guard body.type == Item.type.reply else { return nil }
            return try body.reply(to: Many<Item>.self).answers.map { $0.map { $0 } }
        }
        let kinds: [any RequestItem.Type] = [
            RegisterModel.self, RemoveModel.self, OpenSequence.self, OpenCanary.self, TruncateSequence.self,
            ForkSequence.self,
            CloseSequence.self, RetainSequence.self, ClaimSequence.self, OpenMatching.self,
        ]
        return try kinds.lazy.compactMap { try answers($0) }.first ?? []
    }
}
