//! Answers at the pace of their reader.
//!
//! hyper asks a body for more only when the peer's window has room, but what it has been given stays in its buffers, a
//! whole page of jobs at once. So large answers are given out in pieces: what waits here is what the peer has not read,
//! and that is bounded by connection.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use axum::body::Bytes;
use http::{HeaderMap, HeaderValue};
use http_body::{Frame, SizeHint};
use tonic::Status;
use tonic::body::Body;

use super::peer::{PeerInfo, Unread};

/// Of one frame. What is not larger goes out as it is.
const PIECE_BYTES: usize = 16 << 10;

/// A body in pieces. See the [module](self).
pub(super) struct Paced {
    inner: Body,
    /// `None`: nobody to count for.
    peer: Option<PeerInfo>,
    unread_bytes_max: usize,
    rest: Bytes,
    unread: Option<Unread>,
    is_refused: bool,
}

impl Paced {
    pub(super) fn new(inner: Body, peer: Option<PeerInfo>, unread_bytes_max: usize) -> Self {
        Self {
            inner,
            peer,
            unread_bytes_max,
            rest: Bytes::new(),
            unread: None,
            is_refused: false,
        }
    }

    fn piece(&mut self) -> Bytes {
        let piece = self.rest.split_to(self.rest.len().min(PIECE_BYTES));
        match &mut self.unread {
            Some(unread) if !self.rest.is_empty() => unread.take(piece.len()),
            _ => self.unread = None,
        }
        piece
    }

    /// Instead of an answer that finds no room.
    fn refuse(&mut self) -> Frame<Bytes> {
        self.is_refused = true;
        let mut trailers = HeaderMap::new();
        trailers.insert("grpc-status", HeaderValue::from_static("8")); // RESOURCE_EXHAUSTED
        trailers.insert(
            "grpc-message",
            HeaderValue::from_static("too many answers of this connection wait to be read"),
        );
        Frame::trailers(trailers)
    }
}

impl http_body::Body for Paced {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        if self.is_refused {
            return Poll::Ready(None);
        }
        if !self.rest.is_empty() {
            return Poll::Ready(Some(Ok(Frame::data(self.piece()))));
        }
        let frame = match ready!(Pin::new(&mut self.inner).poll_frame(cx)) {
            Some(Ok(frame)) => frame,
            other => return Poll::Ready(other),
        };
        let data = match frame.into_data() {
            Ok(data) => data,
            Err(trailers) => return Poll::Ready(Some(Ok(trailers))),
        };
        let Some(peer) = self.peer.as_ref().filter(|_| data.len() > PIECE_BYTES) else {
            return Poll::Ready(Some(Ok(Frame::data(data))));
        };
        self.unread = peer.unread(data.len(), self.unread_bytes_max);
        if self.unread.is_none() {
            return Poll::Ready(Some(Ok(self.refuse())));
        }
        self.rest = data;
        Poll::Ready(Some(Ok(Frame::data(self.piece()))))
    }

    fn is_end_stream(&self) -> bool {
        self.is_refused || (self.rest.is_empty() && self.inner.is_end_stream())
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::default()
    }
}

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use http_body::Body as _;

    use super::*;

    fn next(body: &mut Paced) -> Option<Frame<Bytes>> {
        let polled = Pin::new(body).poll_frame(&mut Context::from_waker(Waker::noop()));
        match polled {
            Poll::Ready(frame) => frame.map(|frame| frame.expect("it does not fail")),
            Poll::Pending => panic!("these bodies never wait"),
        }
    }

    #[test]
    fn a_large_answer_is_given_out_in_pieces_and_counts_until_it_is_read() {
        let peer = PeerInfo::new(None);
        let answer = vec![7; 3 * PIECE_BYTES + 1];
        let paced = |peer: &PeerInfo| {
            Paced::new(
                Body::new(axum::body::Body::from(answer.clone())),
                Some(peer.clone()),
                answer.len(),
            )
        };
        let mut first = paced(&peer);
        let mut got = next(&mut first)
            .and_then(|frame| frame.into_data().ok())
            .expect("data")
            .to_vec();
        assert_eq!(got.len(), PIECE_BYTES);

        let mut second = paced(&peer);
        let refused = next(&mut second).and_then(|frame| frame.into_trailers().ok());
        assert_eq!(refused.expect("trailers")["grpc-status"], "8");
        assert!(next(&mut second).is_none());

        while let Some(frame) = next(&mut first) {
            got.extend_from_slice(&frame.into_data().expect("data"));
        }
        assert_eq!(got, answer);
        assert_eq!(peer.debt(Waker::noop()), None);
        assert!(next(&mut paced(&peer)).is_some_and(|frame| frame.is_data()));
    }
}
