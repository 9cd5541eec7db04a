//! JSON as a public API should take it: bounded in depth and in the number of
//! values, no key twice, valid UTF-8, and errors that name the place.

use std::fmt;

use serde::de::value::{MapDeserializer, SeqDeserializer};
use serde::de::{
    self, DeserializeOwned, DeserializeSeed, Deserializer, IntoDeserializer, MapAccess, SeqAccess,
    Unexpected, Visitor,
};
use serde_json::{Map, Number, Value};
use yakumo_types::Fault;

/// How deep objects and arrays may nest.
const MAX_DEPTH: usize = 32;
/// How many values a document may hold; a megabyte of `[],[],` would
/// otherwise take fifty in memory.
const MAX_VALUES: usize = 100_000;

/// Reads a document of type `T`; structs should deny unknown fields, and are
/// read from objects alone.
pub fn parse_json<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Fault> {
    from_value(parse_json_value(bytes)?)
}

/// [`parse_json`] for what has been read already.
pub(crate) fn from_value<T: DeserializeOwned>(value: Value) -> Result<T, Fault> {
    serde_path_to_error::deserialize(Named(value)).map_err(|error| {
        let path = error.path().to_string();
        let reason = error.into_inner();
        if path == "." {
            Fault::invalid(format!(
                "The request body is not as it should be: {reason}."
            ))
        } else {
            Fault::invalid(format!("Invalid input for {path}: {reason}."))
        }
    })
}

/// Reads any document within the bounds.
pub fn parse_json_value(bytes: &[u8]) -> Result<Value, Fault> {
    let text = std::str::from_utf8(bytes)
        .map_err(|_| Fault::invalid("The request body is not valid UTF-8."))?;
    let mut left = MAX_VALUES;
    let mut reader = serde_json::Deserializer::from_str(text);
    let seed = Bounded {
        depth: 0,
        left: &mut left,
    };
    seed.deserialize(&mut reader)
        .and_then(|value| reader.end().map(|()| value))
        .map_err(|error| Fault::invalid(format!("The request body is not valid JSON: {error}.")))
}

/// A value from which structs are read by the names of their fields. Serde by
/// itself takes an array as well, with the fields in the order in which they
/// happen to stand in our source.
struct Named(Value);

impl<'de> IntoDeserializer<'de, serde_json::Error> for Named {
    type Deserializer = Self;

    fn into_deserializer(self) -> Self {
        self
    }
}

impl<'de> Deserializer<'de> for Named {
    type Error = serde_json::Error;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Self::Error> {
        match self.0 {
            Value::Array(items) => {
                let mut items = SeqDeserializer::new(items.into_iter().map(Self));
                let value = visitor.visit_seq(&mut items)?;
                items.end().map(|()| value)
            }
            Value::Object(fields) => {
                let fields = fields.into_iter().map(|(name, value)| (name, Self(value)));
                let mut fields = MapDeserializer::new(fields);
                let value = visitor.visit_map(&mut fields)?;
                fields.end().map(|()| value)
            }
            plain => plain.deserialize_any(visitor),
        }
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Self::Error> {
        match self.0 {
            Value::Null => visitor.visit_none(),
            _ => visitor.visit_some(self),
        }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, Self::Error> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Self::Error> {
        if self.0.is_array() {
            return Err(de::Error::invalid_type(Unexpected::Seq, &visitor));
        }
        self.deserialize_any(visitor)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        name: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Self::Error> {
        self.0.deserialize_enum(name, variants, visitor)
    }

    serde::forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf unit
        unit_struct seq tuple tuple_struct map identifier ignored_any
    }
}
struct Bounded<'a> {
    depth: usize,
    left: &'a mut usize,
}

impl Bounded<'_> {
    fn count<E: de::Error>(&mut self) -> Result<(), E> {
        match self.left.checked_sub(1) {
            Some(left) => {
                *self.left = left;
                Ok(())
            }
            None => Err(E::custom(format!("more than {MAX_VALUES} values"))),
        }
    }

    fn deeper<E: de::Error>(&mut self) -> Result<Bounded<'_>, E> {
        if self.depth >= MAX_DEPTH {
            return Err(E::custom(format!("nested deeper than {MAX_DEPTH} levels")));
        }
        Ok(Bounded {
            depth: self.depth + 1,
            left: self.left,
        })
    }
}

impl<'de> DeserializeSeed<'de> for Bounded<'_> {
    type Value = Value;

    fn deserialize<D: de::Deserializer<'de>>(mut self, reader: D) -> Result<Value, D::Error> {
        self.count()?;
        reader.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Bounded<'_> {
    type Value = Value;

    fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(Value::Number(value.into()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(Value::Number(value.into()))
    }

    fn visit_f64<E: de::Error>(self, value: f64) -> Result<Value, E> {
        Number::from_f64(value)
            .map(Value::Number)
            .ok_or_else(|| E::custom("a number is out of range"))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(Value::String(value.to_owned()))
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(Value::String(value))
    }

    fn visit_seq<A: SeqAccess<'de>>(mut self, mut items: A) -> Result<Value, A::Error> {
        let mut out = Vec::new();
        let inner = self.deeper()?;
        while let Some(item) = items.next_element_seed(Bounded {
            depth: inner.depth,
            left: &mut *inner.left,
        })? {
            out.push(item);
        }
        Ok(Value::Array(out))
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut entries: A) -> Result<Value, A::Error> {
        let mut out = Map::new();
        let mut inner = self.deeper()?;
        while let Some(key) = entries.next_key::<String>()? {
            if out.contains_key(&key) {
                return Err(de::Error::custom(format!("the key {key:.64?} comes twice")));
            }
            inner.count()?;
            let value = entries.next_value_seed(Bounded {
                depth: inner.depth,
                left: &mut *inner.left,
            })?;
            out.insert(key, value);
        }
        Ok(Value::Object(out))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde::Deserialize;

    #[derive(Deserialize, Debug)]
    #[serde(deny_unknown_fields)]
    struct Body {
        #[allow(dead_code)]
        server: Server,
    }

    #[derive(Deserialize, Debug)]
    #[serde(deny_unknown_fields)]
    struct Server {
        #[allow(dead_code)]
        name: String,
    }

    fn refusal(bytes: &[u8]) -> String {
        parse_json::<Body>(bytes).unwrap_err().message
    }

    #[test]
    fn a_refusal_names_the_place() {
        parse_json::<Body>(br#"{"server": {"name": "web"}}"#).unwrap();
        assert!(refusal(br#"{"server": {"name": 5}}"#).contains("server.name"));
        assert!(refusal(br#"{"server": {"name": "a", "nmae": "b"}}"#).contains("nmae"));
        assert!(refusal(br#"{"server": {}}"#).contains("name"));
    }

    #[test]
    fn an_array_is_no_object() {
        assert!(refusal(br#"{"server": ["web"]}"#).contains("sequence"));
        assert!(refusal(br#"[{"name": "web"}]"#).contains("sequence"));
        // Wherever else values may stand, they are read as ever.
        let read =
            parse_json::<Vec<(u8, Option<f64>, Value)>>(br#"[[1, 2, [null]], [3, null, {}]]"#);
        assert_eq!(
            read.unwrap(),
            [
                (1, Some(2.0), serde_json::json!([null])),
                (3, None, serde_json::json!({}))
            ]
        );
    }

    #[test]
    fn bombs_and_nonsense_are_refused() {
        let deep = "[".repeat(100_000);
        assert!(refusal(deep.as_bytes()).contains("deeper"));
        let wide = format!("[{}1]", "1,".repeat(200_000));
        assert!(refusal(wide.as_bytes()).contains("values"));
        assert!(refusal(b"{\"server\": \"\xff\"}").contains("UTF-8"));
        assert!(refusal(br#"{"server": {"name": "a", "name": "b"}}"#).contains("twice"));
        assert!(refusal(br#"{"server": {"name": "a"}} {"#).contains("JSON"));
        assert!(refusal(br#"{"server": {"name": "\ud800"}}"#).contains("JSON"));
        assert!(refusal(b"").contains("JSON"));
        assert!(refusal(b"{\"server\": 1e999}").contains("JSON"));
    }
}
