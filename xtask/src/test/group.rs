//! Which group a test belongs to.

use anyhow::{Result, bail};

/// The groups, in the order of the summary.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum Group {
    Unit,
    Doc,
    Property,
    Loom,
    Conformance,
    Hostile,
    Hosted,
    NoStd,
    FuzzCorpus,
}

impl Group {
    const ALL: [Self; 9] = [
        Self::Unit,
        Self::Doc,
        Self::Property,
        Self::Loom,
        Self::Conformance,
        Self::Hostile,
        Self::Hosted,
        Self::NoStd,
        Self::FuzzCorpus,
    ];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Unit => "unit",
            Self::Doc => "doc",
            Self::Property => "property",
            Self::Loom => "loom",
            Self::Conformance => "conformance",
            Self::Hostile => "hostile",
            Self::Hosted => "hosted",
            Self::NoStd => "no_std",
            Self::FuzzCorpus => "fuzz-corpus",
        }
    }

    /// The groups of these names; all of them if none is named.
    pub(crate) fn select(names: &[String]) -> Result<Vec<Self>> {
        if names.is_empty() {
            return Ok(Self::ALL.to_vec());
        }
        let mut groups = Vec::new();
        for name in names {
            match Self::ALL.into_iter().find(|group| group.name() == name) {
                Some(group) => groups.push(group),
                None => bail!(
                    "no group of tests is called `{name}`; there are {}",
                    Self::ALL.map(Self::name).join(", ")
                ),
            }
        }
        Ok(groups)
    }

    /// Whether its tests are programs that cargo lists.
    pub(crate) fn is_built_by_cargo(self) -> bool {
        !matches!(self, Self::Doc | Self::NoStd)
    }

    /// By the name of the target: `lib`, or the file's name under `tests/`.
    pub(crate) fn of(target: &str) -> Self {
        match target {
            t if t.starts_with("property") || t.ends_with("_model") => Self::Property,
            t if t.starts_with("loom") => Self::Loom,
            t if t.starts_with("conformance") => Self::Conformance,
            t if t.starts_with("hostile") => Self::Hostile,
            t if t.starts_with("hosted") => Self::Hosted,
            t if t.starts_with("fuzz_corpus") => Self::FuzzCorpus,
            _ => Self::Unit,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_of_a_target_decides() {
        for (target, group) in [
            ("lib", "unit"),
            ("bin", "unit"),
            ("c_differential", "unit"),
            ("property_ring", "property"),
            ("ring_model", "property"),
            ("loom_ring", "loom"),
            ("conformance", "conformance"),
            ("hostile_index", "hostile"),
            ("hosted_nbd", "hosted"),
            ("fuzz_corpus", "fuzz-corpus"),
        ] {
            assert_eq!(Group::of(target).name(), group, "{target}");
        }
    }

    #[test]
    fn a_filter_names_groups_that_exist() {
        assert_eq!(
            Group::select(&["loom".into()]).expect("exists"),
            [Group::Loom]
        );
        assert!(Group::select(&["looms".into()]).is_err());
    }
}
