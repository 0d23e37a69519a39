//! Plain data as bytes and back, so that a decision's state and inputs can be stored and replayed exactly.
//!
//! Little endian, no names, no lengths but those of lists and texts; a float is its bits, so that what was NaN is NaN
//! again. The bytes are of one version of this crate ([`VERSION`] leads them): a state of another version is refused and
//! relearned, because a number read into the wrong place is worse than none.

use std::collections::BTreeMap;

/// Of the layout of everything below. Raise it with every change of a stored structure.
pub const VERSION: u8 = 2;
/// Elements of one list: more is a broken length, not data.
const ITEMS_MAX: usize = 1 << 20;

/// What was read is not what was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Corrupt {
    /// It ends too early.
    Short,
    /// Bytes are left over, a length is absurd, a text is no text or a choice does not exist.
    Malformed,
    /// Another version wrote it.
    Version(u8),
}

impl std::fmt::Display for Corrupt {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Corrupt::Short => write!(f, "the record ends too early"),
            Corrupt::Malformed => write!(f, "the record is malformed"),
            Corrupt::Version(version) => {
                write!(f, "the record is of version {version}, this is version {VERSION}")
            }
        }
    }
}

impl std::error::Error for Corrupt {}

/// Something that is stored by its fields, in order.
pub trait Plain: Sized {
    fn write(&self, out: &mut Vec<u8>);
    fn read(from: &mut &[u8]) -> Result<Self, Corrupt>;

    /// With the version before it.
    fn to_bytes(&self) -> Vec<u8> {
        let mut out = vec![VERSION];
        self.write(&mut out);
        out
    }

    /// The whole of `bytes`, nothing left over.
    fn from_bytes(bytes: &[u8]) -> Result<Self, Corrupt> {
        let mut from = bytes;
        match u8::read(&mut from)? {
            VERSION => {}
            other => return Err(Corrupt::Version(other)),
        }
        let value = Self::read(&mut from)?;
        match from.is_empty() {
            true => Ok(value),
            false => Err(Corrupt::Malformed),
        }
    }
}

fn take<const N: usize>(from: &mut &[u8]) -> Result<[u8; N], Corrupt> {
    let (head, rest) = from.split_first_chunk::<N>().ok_or(Corrupt::Short)?;
    *from = rest;
    Ok(*head)
}

macro_rules! number {
    ($($type:ty),*) => {$(
        impl Plain for $type {
            fn write(&self, out: &mut Vec<u8>) {
                out.extend_from_slice(&self.to_le_bytes());
            }
            fn read(from: &mut &[u8]) -> Result<Self, Corrupt> {
                Ok(Self::from_le_bytes(take(from)?))
            }
        }
    )*};
}
number!(u8, u32, u64, f64);

impl Plain for usize {
    fn write(&self, out: &mut Vec<u8>) {
        (*self as u64).write(out);
    }
    fn read(from: &mut &[u8]) -> Result<Self, Corrupt> {
        usize::try_from(u64::read(from)?).map_err(|_| Corrupt::Malformed)
    }
}

impl Plain for bool {
    fn write(&self, out: &mut Vec<u8>) {
        u8::from(*self).write(out);
    }
    fn read(from: &mut &[u8]) -> Result<Self, Corrupt> {
        match u8::read(from)? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(Corrupt::Malformed),
        }
    }
}

impl Plain for String {
    fn write(&self, out: &mut Vec<u8>) {
        self.len().write(out);
        out.extend_from_slice(self.as_bytes());
    }
    fn read(from: &mut &[u8]) -> Result<Self, Corrupt> {
        let length = usize::read(from)?;
        let (text, rest) = from.split_at_checked(length).ok_or(Corrupt::Short)?;
        *from = rest;
        String::from_utf8(text.to_vec()).map_err(|_| Corrupt::Malformed)
    }
}

impl<T: Plain> Plain for Option<T> {
    fn write(&self, out: &mut Vec<u8>) {
        self.is_some().write(out);
        self.iter().for_each(|value| value.write(out));
    }
    fn read(from: &mut &[u8]) -> Result<Self, Corrupt> {
        bool::read(from)?.then(|| T::read(from)).transpose()
    }
}

impl<T: Plain> Plain for Vec<T> {
    fn write(&self, out: &mut Vec<u8>) {
        self.len().write(out);
        self.iter().for_each(|value| value.write(out));
    }
    fn read(from: &mut &[u8]) -> Result<Self, Corrupt> {
        let length = usize::read(from)?;
        if length > ITEMS_MAX {
            return Err(Corrupt::Malformed);
        }
        (0..length).map(|_| T::read(from)).collect()
    }
}

impl<A: Plain, B: Plain> Plain for (A, B) {
    fn write(&self, out: &mut Vec<u8>) {
        self.0.write(out);
        self.1.write(out);
    }
    fn read(from: &mut &[u8]) -> Result<Self, Corrupt> {
        Ok((A::read(from)?, B::read(from)?))
    }
}

impl<K: Plain + Ord, V: Plain> Plain for BTreeMap<K, V> {
    fn write(&self, out: &mut Vec<u8>) {
        self.len().write(out);
        for (key, value) in self {
            key.write(out);
            value.write(out);
        }
    }
    fn read(from: &mut &[u8]) -> Result<Self, Corrupt> {
        Ok(Vec::<(K, V)>::read(from)?.into_iter().collect())
    }
}

/// Stores a structure by the fields named, which must be all of them.
macro_rules! plain {
    ($type:ident { $($field:ident),* $(,)? }) => {
        impl $crate::codec::Plain for $type {
            fn write(&self, out: &mut Vec<u8>) {
                let Self { $($field),* } = self;
                $($crate::codec::Plain::write($field, out);)*
            }
            fn read(from: &mut &[u8]) -> Result<Self, $crate::codec::Corrupt> {
                $(let $field = $crate::codec::Plain::read(from)?;)*
                Ok(Self { $($field),* })
            }
        }
    };
}
/// Stores a choice without data by its place in `ALL`.
macro_rules! plain_choice {
    ($type:ident) => {
        impl $crate::codec::Plain for $type {
            fn write(&self, out: &mut Vec<u8>) {
                let place = Self::ALL.iter().position(|one| one == self);
                (place.expect("ALL names every choice") as u8).write(out);
            }
            fn read(from: &mut &[u8]) -> Result<Self, $crate::codec::Corrupt> {
                let place = usize::from(<u8 as $crate::codec::Plain>::read(from)?);
                Self::ALL
                    .get(place)
                    .copied()
                    .ok_or($crate::codec::Corrupt::Malformed)
            }
        }
    };
}
pub(crate) use {plain, plain_choice};

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Clone, Debug, PartialEq)]
    struct Pair {
        name: String,
        values: Vec<(u32, Option<f64>)>,
    }
    plain!(Pair { name, values });

    fn pair() -> Pair {
        Pair {
            name: "ä".to_owned(),
            values: vec![(7, None), (0, Some(f64::INFINITY))],
        }
    }

    #[test]
    fn what_is_read_is_what_was_written() {
        assert_eq!(Pair::from_bytes(&pair().to_bytes()), Ok(pair()));
        let nan = f64::from_bytes(&f64::NAN.to_bytes()).map(f64::to_bits);
        assert_eq!(nan, Ok(f64::NAN.to_bits()));
    }

    #[test]
    fn what_was_not_written_is_refused() {
        let bytes = pair().to_bytes();
        for end in 1..bytes.len() {
            assert!(Pair::from_bytes(&bytes[..end]).is_err(), "{end}");
        }
        assert_eq!(
            Pair::from_bytes(&[&bytes[..], &[0]].concat()),
            Err(Corrupt::Malformed)
        );
        let newer = [&[VERSION + 1], &bytes[1..]].concat();
        assert_eq!(Pair::from_bytes(&newer), Err(Corrupt::Version(VERSION + 1)));
        assert_eq!(bool::from_bytes(&[VERSION, 7]), Err(Corrupt::Malformed));
        let endless = [&[VERSION][..], &u64::MAX.to_le_bytes()].concat();
        assert_eq!(Vec::<u8>::from_bytes(&endless), Err(Corrupt::Malformed));
    }
}
