//! As much JSON as cargo's messages need.

use anyhow::{Result, bail};
use std::collections::BTreeMap;

/// A JSON value. Numbers are not kept: nothing here needs one.
#[derive(Debug, PartialEq)]
pub(crate) enum Json {
    Null,
    Bool(bool),
    Number,
    Text(String),
    List(Vec<Json>),
    Object(BTreeMap<String, Json>),
}

impl Json {
    pub(crate) fn parse(text: &str) -> Result<Self> {
        let mut parser = Parser { rest: text };
        let value = parser.value()?;
        if !parser.rest.trim_start().is_empty() {
            bail!("more after the end of a JSON value: {:.40}", parser.rest);
        }
        Ok(value)
    }

    /// The member of an object, [`Json::Null`] if there is none.
    pub(crate) fn get(&self, key: &str) -> &Self {
        match self {
            Self::Object(members) => members.get(key).unwrap_or(&Self::Null),
            _ => &Self::Null,
        }
    }

    pub(crate) fn text(&self) -> Option<&str> {
        match self {
            Self::Text(text) => Some(text),
            _ => None,
        }
    }

    pub(crate) fn list(&self) -> &[Self] {
        match self {
            Self::List(list) => list,
            _ => &[],
        }
    }
}

struct Parser<'a> {
    rest: &'a str,
}

impl Parser<'_> {
    fn value(&mut self) -> Result<Json> {
        self.rest = self.rest.trim_start();
        for (word, value) in [
            ("null", Json::Null),
            ("true", Json::Bool(true)),
            ("false", Json::Bool(false)),
        ] {
            if let Some(rest) = self.rest.strip_prefix(word) {
                self.rest = rest;
                return Ok(value);
            }
        }
        match self.rest.as_bytes().first() {
            Some(b'"') => Ok(Json::Text(self.string()?)),
            Some(b'[') => self.array(),
            Some(b'{') => self.object(),
            Some(b'-' | b'0'..=b'9') => {
                self.rest = self.rest.trim_start_matches(|c: char| {
                    c.is_ascii_digit() || matches!(c, '-' | '+' | '.' | 'e' | 'E')
                });
                Ok(Json::Number)
            }
            _ => bail!("not JSON: {:.40}", self.rest),
        }
    }

    fn eat(&mut self, mark: char) -> bool {
        let rest = self.rest.trim_start();
        match rest.strip_prefix(mark) {
            Some(after) => {
                self.rest = after;
                true
            }
            None => false,
        }
    }

    fn array(&mut self) -> Result<Json> {
        let mut list = Vec::new();
        self.eat('[');
        if self.eat(']') {
            return Ok(Json::List(list));
        }
        loop {
            list.push(self.value()?);
            if self.eat(']') {
                return Ok(Json::List(list));
            }
            if !self.eat(',') {
                bail!("no comma in a JSON list: {:.40}", self.rest);
            }
        }
    }

    fn object(&mut self) -> Result<Json> {
        let mut members = BTreeMap::new();
        self.eat('{');
        if self.eat('}') {
            return Ok(Json::Object(members));
        }
        loop {
            self.rest = self.rest.trim_start();
            let key = self.string()?;
            if !self.eat(':') {
                bail!("no colon after {key:?}");
            }
            members.insert(key, self.value()?);
            if self.eat('}') {
                return Ok(Json::Object(members));
            }
            if !self.eat(',') {
                bail!("no comma in a JSON object: {:.40}", self.rest);
            }
        }
    }

    fn string(&mut self) -> Result<String> {
        if !self.eat('"') {
            bail!("no JSON string: {:.40}", self.rest);
        }
        let mut text = String::new();
        loop {
            let Some(end) = self.rest.find(['"', '\\']) else {
                bail!("a JSON string has no end");
            };
            let (before, after) = self.rest.split_at(end);
            text.push_str(before);
            if let Some(rest) = after.strip_prefix('"') {
                self.rest = rest;
                return Ok(text);
            }
            let mut escape = after.chars().skip(1);
            let mut taken = 2;
            match escape.next() {
                Some('n') => text.push('\n'),
                Some('t') => text.push('\t'),
                Some('r') => text.push('\r'),
                Some('b') => text.push('\u{8}'),
                Some('f') => text.push('\u{c}'),
                Some('u') => {
                    let digits: String = escape.take(4).collect();
                    let code = u32::from_str_radix(&digits, 16)?;
                    // Half a surrogate pair: nothing that is compared here holds one.
                    text.push(char::from_u32(code).unwrap_or('\u{fffd}'));
                    taken = 6;
                }
                Some(c) if c.is_ascii() => text.push(c),
                _ => bail!("a JSON string ends in an escape"),
            }
            self.rest = after.get(taken..).unwrap_or("");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_cargo_writes() {
        let json = Json::parse(
            r#" {"reason":"x\"\u0041\n","list":[1, -2.5e3,true,null,{}],"o":{"k":["v"]}, "e":[]} "#,
        )
        .expect("parses");
        assert_eq!(json.get("reason").text(), Some("x\"A\n"));
        assert_eq!(json.get("list").list().len(), 5);
        assert_eq!(json.get("o").get("k").list()[0].text(), Some("v"));
        assert_eq!(json.get("missing"), &Json::Null);
        assert!(json.get("e").list().is_empty());
    }

    #[test]
    fn refuses_what_is_cut_off() {
        for text in ["", "{", "[1,", "\"a", "{\"a\"}", "[1 2]", "{} x", "\"\\"] {
            assert!(Json::parse(text).is_err(), "{text:?}");
        }
    }
}
