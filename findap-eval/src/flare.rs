//! The label that FLARE's own program reads in a reply, by which published scores were counted.

use crate::task::FlareRule;

/// The first of the labels in their order that stands anywhere in the reply, itself or by a synonym; else the rule's default.
pub(crate) fn label(rule: &FlareRule, row_labels: &[String], reply: &str) -> Option<String> {
    let spelt = |text: &str| if rule.match_case { text.trim().to_owned() } else { text.trim().to_lowercase() };
    let reply = spelt(reply);
    let labels = if rule.labels.is_empty() { row_labels } else { &rule.labels };
    let synonyms = |label: &str| {
        let of_label = rule.synonyms.iter().filter(|(other, _)| spelt(other) == spelt(label));
        of_label.flat_map(|(_, texts)| texts).map(|text| spelt(text)).collect::<Vec<_>>()
    };
    let stands = |label: &&String| {
        reply.contains(&spelt(label)) || synonyms(label).iter().any(|text| reply.contains(text.as_str()))
    };
    labels.iter().find(stands).or(rule.default.as_ref()).cloned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(text: &str) -> FlareRule {
        toml::from_str(text).expect("a rule")
    }

    #[test]
    fn the_first_label_that_stands_anywhere_counts() {
        let tone = rule(r#"labels = ["positive", "neutral", "negative"]"#);
        let stocks = rule(
            r#"
            default = "Fall"
            [synonyms]
            rise = ["yes", "positive"]
            fall = ["no", "negative"]
        "#,
        );
        let (row, letters) = (["Rise", "Fall"].map(str::to_owned), rule("match_case = true"));
        let options = ["A", "B"].map(str::to_owned);
        for (rule, labels, reply, want) in [
            (&tone, &[][..], "Not Positive", Some("positive")),
            (&tone, &[], "negative or neutral", Some("neutral")),
            (&tone, &[], "good", None),
            (&stocks, &row, "I know", Some("Fall")),
            (&stocks, &row, "Yes, a fall is unlikely", Some("Rise")),
            (&stocks, &row, "", Some("Fall")),
            (&letters, &options, "b, as said", None),
            (&letters, &options, "B. As said", Some("A")),
        ] {
            assert_eq!(label(rule, labels, reply).as_deref(), want, "{reply}");
        }
    }
}
