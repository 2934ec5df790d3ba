// SPDX-License-Identifier: Apache-2.0

package import DCPCore
package import DCPWire

extension RegisterModel: DirectoryItem {
    package func carryOut(
        on machine: inout CoordinatorMachine, _ item: PendingItem<Self>, from tag: Tag, now: Duration
    ) throws(ServiceError) -> [CoordinatorMachine.Action] {
        try machine.checkReady()
        try machine.check(name: name, of: "model")
        try machine.state.shape.check(description)
        if let known = machine.state.model(named: name) {
            let differences = description.differences(from: known.description)
            guard differences.isEmpty else {
                throw ServiceError(
                    .modelMismatch,
                    "Model `\(name)` is already registered with a different description "
                        + "(\(differences.joined(separator: "; "))); choose another name, or run `dcpctl model "
                        + "remove \(name)` first.")
            }
            let isOnItsWay = machine.join(item.answer(known)) { $0 == .putModel(known) }
            return isOnItsWay ? [] : machine.answer(item.answer(known))
        }
        try machine.caller(of: item.place).check(.administer, for: "the new model `\(name)`")
        guard !CanaryNames.isReserved(name) else { throw machine.reserved(name, of: "model") }
        let record = ModelRecord(id: ModelID(machine.state.nextModel), name: name, description: description)
        try machine.checkRoom(for: record)
        return machine.persist([.model(record), machine.nextIDs(afterModel: record.id)])
            + machine.carry(.putModel(record), for: item.answer(record))
    }
}

extension RemoveModel: DirectoryItem {
    package func carryOut(
        on machine: inout CoordinatorMachine, _ item: PendingItem<Self>, from tag: Tag, now: Duration
    ) throws(ServiceError) -> [CoordinatorMachine.Action] {
        try machine.checkReady()
        let record = try machine.model(name)
        let users = Array(machine.state.sortedSequences.filter { $0.record.model == record.id })
        guard users.isEmpty else {
            throw ServiceError(
                .conflict,
                "\(users.count) sequences use model `\(name)`, for example `\(users[0].record.name)`; close them first "
                    + "(dcpctl sequence close).")
        }
        return machine.persist([.modelRemoved(record.id)])
            + machine.carry(.removeModel(record.id), for: item.answer(Done()))
    }
}
