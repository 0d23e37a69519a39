//! Sizes in bytes as text (`"1MiB"`, `"256KiB"`, `"10MB"`) or plain integers, for any integer field.

use std::fmt;
use std::marker::PhantomData;

use serde::{Deserializer, Serializer, de};

/// Unit and its bytes; binary units from the largest down, because [`format`] takes the first that divides.
const BINARY: [(&str, u64); 4] = [
    ("TiB", 1 << 40),
    ("GiB", 1 << 30),
    ("MiB", 1 << 20),
    ("KiB", 1 << 10),
];
const DECIMAL: [(&str, u64); 5] = [
    ("TB", 1_000_000_000_000),
    ("GB", 1_000_000_000),
    ("MB", 1_000_000),
    ("KB", 1_000),
    ("B", 1),
];

/// Parses `"1MiB"`, `"256 KiB"`, `"10MB"`, `"512"` (bytes); units in any case.
///
/// # Errors
/// Not a whole number, an unknown unit, or more than 2^64 - 1 bytes.
pub fn parse(text: &str) -> Result<u64, String> {
    let trimmed = text.trim();
    let digits = trimmed
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(trimmed.len());
    let (number, unit) = trimmed.split_at(digits);
    let unit = unit.trim();
    let factor = BINARY
        .iter()
        .chain(&DECIMAL)
        .find(|(name, _)| unit.eq_ignore_ascii_case(name))
        .map(|(_, factor)| *factor)
        .or(unit.is_empty().then_some(1));
    number
        .parse::<u64>()
        .ok()
        .zip(factor)
        .and_then(|(number, factor)| number.checked_mul(factor))
        .ok_or_else(|| format!("`{text}` is not a size such as \"1MiB\", \"256KiB\" or 4096"))
}

/// The text form in the largest binary unit that divides it: `"1MiB"`, `"1000B"`.
pub fn format(bytes: u64) -> String {
    BINARY
        .iter()
        .find(|(_, factor)| bytes >= *factor && bytes.is_multiple_of(*factor))
        .map(|(unit, factor)| format!("{}{unit}", bytes / factor))
        .unwrap_or_else(|| format!("{bytes}B"))
}

pub fn serialize<S, T>(bytes: &T, serializer: S) -> Result<S::Ok, S::Error>
where
    S: Serializer,
    T: Copy + TryInto<u64>,
{
    let bytes = (*bytes)
        .try_into()
        .map_err(|_| serde::ser::Error::custom("a size cannot be negative"))?;
    serializer.serialize_str(&format(bytes))
}

pub fn deserialize<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: TryFrom<u64>,
{
    deserializer.deserialize_any(SizeVisitor(PhantomData))
}

struct SizeVisitor<T>(PhantomData<T>);

impl<T: TryFrom<u64>> de::Visitor<'_> for SizeVisitor<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a size such as \"1MiB\", \"256KiB\" or 4096")
    }

    fn visit_u64<E: de::Error>(self, bytes: u64) -> Result<T, E> {
        T::try_from(bytes).map_err(|_| E::custom(format!("{bytes} bytes is too large here")))
    }

    fn visit_i64<E: de::Error>(self, bytes: i64) -> Result<T, E> {
        let bytes =
            u64::try_from(bytes).map_err(|_| E::invalid_value(de::Unexpected::Signed(bytes), &self))?;
        self.visit_u64(bytes)
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<T, E> {
        parse(text)
            .map_err(E::custom)
            .and_then(|bytes| self.visit_u64(bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parses_units_and_plain_numbers() {
        assert_eq!(parse("1MiB"), Ok(1 << 20));
        assert_eq!(parse("256 kib"), Ok(256 << 10));
        assert_eq!(parse("10MB"), Ok(10_000_000));
        assert_eq!(parse("4096"), Ok(4096));
        for bad in ["", "MiB", "1.5MiB", "-1", "1XB", "99999999999TiB"] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn reads_back_what_it_writes() {
        for bytes in [0, 1, 1000, 1024, 3 << 20, u64::MAX] {
            assert_eq!(parse(&format(bytes)), Ok(bytes));
        }
        assert_eq!(format(1 << 20), "1MiB");
    }
}
