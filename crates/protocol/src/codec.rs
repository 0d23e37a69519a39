//! How messages become bytes: prost's encoding, with buffers of the size of our messages.
//!
//! tonic sets aside 8 KiB for a call, each way. Most calls are of one job: the allocator's slow path twice a call, and a
//! waiting job of 200 bytes that keeps 8 KiB alive, because its payload is a slice of that buffer.

use prost::Message;
use tonic::codec::{BufferSettings, Codec};
use tonic_prost::{ProstCodec, ProstDecoder, ProstEncoder};

/// Enough for a call of one small job; buffers grow to what is needed. Not less: the decoder wants room for twice a message,
/// and `BytesMut` gives a stream's next buffer the size of its first only from here up.
const BUFFER_BYTES: usize = 1024;
/// tonic's own: what is encoded is sent when so much has gathered.
const YIELD_BYTES: usize = 32 << 10;

fn buffers() -> BufferSettings {
    BufferSettings::new(BUFFER_BYTES, YIELD_BYTES)
}

/// The generated services and clients use it.
#[derive(Clone, Debug)]
pub struct Messages<T, U>(std::marker::PhantomData<(T, U)>);

impl<T, U> Default for Messages<T, U> {
    fn default() -> Self {
        Self(std::marker::PhantomData)
    }
}

impl<T, U> Codec for Messages<T, U>
where
    T: Message + Send + 'static,
    U: Message + Default + Send + 'static,
{
    type Encode = T;
    type Decode = U;
    type Encoder = ProstEncoder<T>;
    type Decoder = ProstDecoder<U>;

    fn encoder(&mut self) -> Self::Encoder {
        ProstCodec::<T, U>::raw_encoder(buffers())
    }

    fn decoder(&mut self) -> Self::Decoder {
        ProstCodec::<T, U>::raw_decoder(buffers())
    }
}
