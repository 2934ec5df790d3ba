// SPDX-License-Identifier: Apache-2.0

package import DCPCore

extension ServiceError {
    /// A store's failure in the words of the service.
    /// - Parameter rank: whose store; nil for the coordinator's.
    package init(_ error: StoreError, rank: RankIndex?) {
        let code: Code =
            switch error.code {
            case .full: .storeFull
            case .inUse, .refused: .storeRefused
            case .damaged: .storeDamaged
            case .overloaded: .overloaded
            case .closed: .shuttingDown
            case .unexpected: .internal
            }
        self.init(code, error.description, rank: rank)
    }

    package init(any error: any Error, rank: RankIndex?) {
        switch error {
        case let error as ServiceError: self = error
        case let error as StoreError: self.init(error, rank: rank)
        default: self.init(.internal, "\(error)", rank: rank)
        }
    }
}
