// SPDX-License-Identifier: Apache-2.0

internal import DCPCache
internal import DCPCore
internal import DCPTransport
internal import DCPWire
internal import NIOCore

/// Keys and values that clients read back.
extension RankServer {
    /// Bytes of one answer.
    static let rowsByteCountMax = 64 << 20
    /// Bytes of all answers that are being read, or wait for their clients to read them.
    static let readsInFlightByteCountMax = 512 << 20

    /// Takes memory for an answer that is read from the store; `readBytes` gets it back when the answer has been sent.
    func takeReadBytes(_ byteCount: Int) throws(ServiceError) {
        guard readBytes.fits(byteCount) else {
            throw ServiceError(
                .overloaded,
                "\(readBytes.heldByteCount) bytes of stored tokens are being read or wait to be sent, this answer needs "
                    + "\(byteCount) and the limit is \(readBytes.byteCountMax); try again when some have been sent.")
        }
        readBytes.take(byteCount)
    }

    func readRows(_ request: RowsRequest, _ call: Call<RowsRequest>) {
        do throws(ServiceError) {
            try checkServing(call.epoch)
            let byteCount = try cache.rowsByteCount(
                sequence: request.sequence, layer: request.layer, positions: Range<Position>(request.positions))
            guard byteCount <= Self.rowsByteCountMax else {
                throw ServiceError(
                    .invalidRequest,
                    "\(configuration.rank) owns \(byteCount) bytes of positions "
                        + "\(request.position)..<\(request.positions.upperBound), but the limit of an answer is "
                        + "\(Self.rowsByteCountMax); ask for fewer tokens.")
            }
            try takeReadBytes(byteCount)
            let bound = NIOLoopBound((server: self, call: call), eventLoop: eventLoop)
            let (cache, headGroups, eventLoop) = (cache, cluster.headGroups, eventLoop)
            pool.submit { goesOn in
                let message = cache.answer(to: request, byteCount: byteCount, headGroups: headGroups, goesOn)
                eventLoop.execute {
                    let (server, call) = bound.value
                    // A link must not keep the server alive.
                    server.answer(call.link, call.tag, message) { [weak server] in
                        server?.readBytes.giveBack(byteCount)
                    }
                }
            }
        } catch {
            refuse(call, error)
        }
    }
}

extension ShardCache {
    /// Made here, with its checksum, while the rows are in this thread's cache.
    fileprivate func answer(
        to request: RowsRequest, byteCount: Int, headGroups: Int, _ goesOn: () -> Void
    ) -> Message {
        do throws(ServiceError) {
            let reply = try readRows(request, byteCount: byteCount, headGroups: headGroups, goesOn)
            return Message.reply(reply, to: RowsRequest.self)
        } catch {
            return Message.failure(error)
        }
    }

    /// Rows in the memory that the frame is sent from.
    fileprivate func readRows(
        _ request: RowsRequest, byteCount: Int, headGroups: Int, _ goesOn: () -> Void
    ) throws(ServiceError) -> RowsReply {
        var buffer = TensorMemory.buffer(byteCount: byteCount)
        var result: Result<StoredRows, ServiceError>?
        buffer.writeWithUnsafeMutableBytes(minimumWritableBytes: byteCount) { bytes in
            let bytes = UnsafeMutableRawBufferPointer(rebasing: bytes[..<byteCount])
            result = Result { () throws(ServiceError) in
                try rows(
                    sequence: request.sequence, layer: request.layer, positions: Range<Position>(request.positions),
                    into: bytes, goesOn: goesOn)
            }
            return byteCount
        }
        guard let result else { preconditionFailure("the buffer lends its bytes synchronously") }
        let stored = try result.get()
        guard let state = self.state(of: request.sequence), let model = self.model(state.model) else {
            throw ServiceError(.unknownSequence, "\(request.sequence) is not open; open it again.")
        }
        let attention = model.description[request.layer]
        return RowsReply(
            generation: stored.generation, tokens: stored.tokens, dataType: model.description.kvFormat.rowType,
            kvHeads: attention.kvHeads / headGroups, keyDim: attention.keyDim, valueDim: attention.ownValueDim,
            rows: buffer)
    }
}
