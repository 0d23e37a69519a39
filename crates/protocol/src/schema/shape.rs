//! What a schema looks like before anything is made of it: are its references local and without a loop, and how large is
//! it when each of them is followed?

use std::collections::HashMap;

use serde_json::Value;

/// Subschemas that a schema unfolds to. Each may be asked once for each place of a payload.
const UNFOLDED_MAX: u64 = 5_000;
/// References that lead to references. Also bounds the recursion here.
const NESTED_MAX: usize = 64;

/// Where it is wrong (a JSON pointer), and what.
type Wrong = (String, String);

/// Keywords whose value is a schema, a list of them, or a map of them. Anything else is data: what is in an `enum` is not
/// a reference, whatever it looks like.
const ONE: [&str; 12] = [
    "not",
    "if",
    "then",
    "else",
    "items",
    "contains",
    "additionalProperties",
    "propertyNames",
    "unevaluatedItems",
    "unevaluatedProperties",
    "contentSchema",
    "additionalItems",
];
const LIST: [&str; 4] = ["allOf", "anyOf", "oneOf", "prefixItems"];
const MAP: [&str; 3] = ["properties", "patternProperties", "dependentSchemas"];
/// Only what is referred to is asked.
const DEFINITIONS: [&str; 2] = ["$defs", "definitions"];
/// Each would let a reference lead somewhere else than its text says.
const REFUSED: [&str; 6] = [
    "$dynamicRef",
    "$dynamicAnchor",
    "$recursiveRef",
    "$recursiveAnchor",
    "$anchor",
    "$vocabulary",
];

pub(super) fn check(schema: &Value) -> Result<(), Wrong> {
    if !schema.is_object() && !schema.is_boolean() {
        return Err((String::new(), "must be an object or a boolean".to_owned()));
    }
    let mut shape = Shape {
        root: schema,
        known: HashMap::new(),
        open: Vec::new(),
    };
    let unfolded = shape.unfold(schema, "")?;
    if unfolded > UNFOLDED_MAX {
        let message = format!("unfolds to {unfolded} subschemas; at most {UNFOLDED_MAX} are taken");
        return Err((String::new(), message));
    }
    Ok(())
}

struct Shape<'a> {
    root: &'a Value,
    /// Sizes of what has been referred to.
    known: HashMap<&'a str, u64>,
    /// References that are being followed.
    open: Vec<&'a str>,
}

impl<'a> Shape<'a> {
    /// How many subschemas there are when references are followed.
    fn unfold(&mut self, schema: &'a Value, place: &str) -> Result<u64, Wrong> {
        let Value::Object(keywords) = schema else {
            return Ok(1);
        };
        let mut sum = 1_u64;
        for (keyword, value) in keywords {
            let place = format!("{place}/{keyword}");
            let keyword = keyword.as_str();
            if REFUSED.contains(&keyword) || (keyword == "$id" && place != "/$id") {
                return Err((place, "is not taken: refer to parts by #/$defs/NAME".to_owned()));
            }
            let more = match (keyword, value) {
                ("$ref", Value::String(target)) => self.follow(target, &place)?,
                (_, Value::Array(list)) if LIST.contains(&keyword) => self.sum(list.iter(), &place)?,
                (_, Value::Object(map)) if MAP.contains(&keyword) => self.sum(map.values(), &place)?,
                (_, Value::Object(map)) if DEFINITIONS.contains(&keyword) => {
                    self.sum(map.values(), &place)?;
                    0
                }
                (_, value) if ONE.contains(&keyword) => self.unfold(value, &place)?,
                _ => 0,
            };
            sum = sum.saturating_add(more);
        }
        Ok(sum)
    }

    fn sum(&mut self, schemas: impl Iterator<Item = &'a Value>, place: &str) -> Result<u64, Wrong> {
        let mut sum = 0_u64;
        for schema in schemas {
            sum = sum.saturating_add(self.unfold(schema, place)?);
        }
        Ok(sum)
    }

    fn follow(&mut self, target: &'a str, place: &str) -> Result<u64, Wrong> {
        let wrong = |message: &str| Err((place.to_owned(), message.to_owned()));
        if let Some(size) = self.known.get(target) {
            return Ok(*size);
        }
        let Some(pointer) = target.strip_prefix('#').filter(|rest| rest.starts_with('/')) else {
            return wrong(
                "must be a place in this schema, like #/$defs/NAME: nothing is fetched, and a schema must not contain itself",
            );
        };
        if self.open.contains(&target) {
            return wrong("leads back to itself: how long a payload takes to check would have no bound");
        }
        if self.open.len() >= NESTED_MAX {
            return wrong("is a reference too deep");
        }
        let Some(schema) = self.root.pointer(pointer) else {
            return wrong("leads nowhere");
        };
        self.open.push(target);
        let size = self.unfold(schema, pointer)?;
        self.open.pop();
        self.known.insert(target, size);
        Ok(size)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn loops_are_found_wherever_they_close() {
        for schema in [
            json!({"$ref": "#"}),
            json!({"properties": {"a": {"$ref": "#"}}}),
            json!({"$ref": "#/$defs/a", "$defs": {"a": {"items": {"$ref": "#/$defs/b"}},
                                                  "b": {"anyOf": [true, {"$ref": "#/$defs/a"}]}}}),
            json!({"$defs": {"unused": {"$ref": "#/$defs/unused"}}}),
            json!({"allOf": [{"$ref": "#/allOf/0"}]}),
        ] {
            assert!(check(&schema).is_err(), "{schema}");
        }
    }

    #[test]
    fn what_unfolds_is_bounded() {
        let mut definitions = serde_json::Map::new();
        definitions.insert("d0".into(), json!({"type": "string"}));
        for n in 1..40 {
            let twice = json!({"$ref": format!("#/$defs/d{}", n - 1)});
            definitions.insert(format!("d{n}"), json!({"allOf": [twice, twice]}));
        }
        let (_, message) =
            check(&json!({"$ref": "#/$defs/d39", "$defs": definitions})).expect_err("a billion laughs");
        assert!(message.contains("unfolds"), "{message}");
        let mut deep = json!(true);
        for _ in 0..100 {
            deep = json!({"items": deep});
        }
        assert_eq!(check(&deep), Ok(()));
    }

    #[test]
    fn data_is_not_taken_for_a_reference() {
        let schema = json!({
            "properties": {"$ref": {"type": "string"}, "$id": {"const": {"$ref": "#"}}},
            "enum": [{"$ref": "elsewhere"}], "default": {"$dynamicRef": "x"},
        });
        assert_eq!(check(&schema), Ok(()));
    }
}
