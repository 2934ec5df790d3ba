internal import DCPCache
internal import DCPCore
internal import DCPTransport
internal import DCPWire
internal import NIOCore

/// Keys and values that clients read back.
extension RankServer {
    /// Bytes of one answer.
    static let rowsByteCountMax = 64 << 20
    /// Bytes of all answers that are being read.
    static let rowsInFlightByteCountMax = 512 << 20

    func readRows(_ request: RowsRequest, _ call: Call<RowsRequest>) {
        do throws(ServiceError) {
            try checkServing(call.epoch)
            let byteCount = try cache.rowsByteCount(
                sequence: request.sequence, layer: request.layer, positions: request.positions)
            guard byteCount <= Self.rowsByteCountMax else {
                throw ServiceError(
                    .invalidRequest,
                    "\(configuration.rank) owns \(byteCount) bytes of positions \(request.position)..<"
                        + "\(request.positions.upperBound), the limit of an answer is \(Self.rowsByteCountMax); ask for fewer "
                        + "tokens.")
            }
            guard rowsInFlightByteCount + byteCount <= Self.rowsInFlightByteCountMax else {
                throw ServiceError(
                    .overloaded,
                    "\(rowsInFlightByteCount) bytes of rows are being read, this answer needs \(byteCount) and the limit is "
                        + "\(Self.rowsInFlightByteCountMax); try again when some have been sent.")
            }
            rowsInFlightByteCount += byteCount
            let bound = NIOLoopBound((server: self, call: call), eventLoop: eventLoop)
            let (cache, eventLoop) = (cache, eventLoop)
            pool.submit { goesOn in
                let result = Result { () throws(ServiceError) in
                    try cache.readRows(request, byteCount: byteCount, goesOn)
                }
                eventLoop.execute {
                    let (server, call) = bound.value
                    server.rowsInFlightByteCount -= byteCount
                    server.answer(call, server.reply(result, request))
                }
            }
        } catch {
            refuse(call, error)
        }
    }

    private func reply(
        _ result: Result<(StoredRows, ByteBuffer), ServiceError>, _ request: RowsRequest
    ) -> Result<RowsReply, ServiceError> {
        Result { () throws(ServiceError) in
            let (rows, bytes) = try result.get()
            guard let state = cache.state(of: request.sequence), let model = cache.model(state.model) else {
                throw ServiceError(.unknownSequence, "\(request.sequence) is not open; open it again.")
            }
            let attention = model.description[request.layer]
            return RowsReply(
                generation: rows.generation, tokens: rows.tokens, dataType: model.description.kvDataType,
                kvHeads: attention.kvHeads / cluster.headGroups, keyDim: attention.keyDim,
                valueDim: attention.ownValueDim, rows: bytes)
        }
    }
}

extension ShardCache {
    /// Rows in the memory that the frame is sent from.
    fileprivate func readRows(
        _ request: RowsRequest, byteCount: Int, _ goesOn: () -> Void
    ) throws(ServiceError) -> (StoredRows, ByteBuffer) {
        var buffer = ByteBufferAllocator().buffer(capacity: byteCount)
        var result: Result<StoredRows, ServiceError>?
        buffer.writeWithUnsafeMutableBytes(minimumWritableBytes: byteCount) { bytes in
            let bytes = UnsafeMutableRawBufferPointer(rebasing: bytes[..<byteCount])
            result = Result { () throws(ServiceError) in
                try rows(
                    sequence: request.sequence, layer: request.layer, positions: request.positions, into: bytes,
                    goesOn: goesOn)
            }
            return byteCount
        }
        guard let result else { preconditionFailure("the buffer lends its bytes at once") }
        return (try result.get(), buffer)
    }
}
