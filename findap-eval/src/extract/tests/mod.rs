use super::*;

mod figures;

#[derive(Deserialize)]
struct Steps {
    extract: Vec<Step>,
}

fn check(steps: &str, reply: &str, want: Option<&str>) {
    let parsed: Steps = toml::from_str(&format!("extract = {steps}")).expect(steps);
    assert_eq!(extract(&parsed.extract, reply).as_deref(), want, "{steps} on {reply:?}");
}

#[test]
fn each_step_finds_what_its_name_says() {
    check(r#"["strip"]"#, " yes \n", Some("yes"));
    check(r#"["strip"]"#, " \n", None);
    check(r#"["first_line"]"#, "\n \n one \ntwo", Some("one"));
    check(r#"["last_line"]"#, "one\ntwo\n\n", Some("two"));
    check(r#"["lower_case"]"#, "\u{c9}T\u{c9}", Some("\u{e9}t\u{e9}"));
    check(r#"["strip_punctuation"]"#, "(yes!)", Some("yes"));
    check(r#"[{after = "Answer:"}]"#, "Answer: 1. Answer: 2", Some(" 2"));
    check(r#"[{after = "Answer:"}]"#, "no marker", None);
    check(r#"[{before = "."}]"#, "one. two.", Some("one"));
    check(r#"[{regex = {pattern = 'is (\w+)'}}]"#, "it is red, it is blue", Some("red"));
    check(r#"[{regex = {pattern = 'is (\w+)', which = "last"}}]"#, "it is red, it is blue", Some("blue"));
    check(r#"[{regex = {pattern = '\d+'}}]"#, "a 12 b", Some("12"));
    check(r#"[{regex = {pattern = '(a)(b)', group = 2}}]"#, "ab", Some("b"));
    check(r#"["first_number"]"#, "from 3 to 4", Some("3"));
    check(r#"["last_number"]"#, "16-3 = 13 so $1,234.50.", Some("1,234.50"));
    check(r#"["last_number"]"#, "a change of -12.6 million", Some("-12.6"));
    check(r#"["last_number"]"#, "16-3", Some("3"));
    check(r#"["last_number"]"#, "none", None);
    check(r#"["choice_letter"]"#, "Because [[A]] no. Selection: [[ b ]]", Some("B"));
    check(r#"["choice_letter"]"#, "Selection: A", None);
    check(r#"["choice_letter"]"#, "[[AB]] [[1]] [[", None);
    check(r#"[{json = {key = "answer"}}]"#, r#"So: {"answer": 4} done"#, Some("4"));
    check(r#"[{json = {key = "answer"}}]"#, r#"{"other": 4}"#, None);
    check(r#"[{json = {}}]"#, r#"{bad {"a": "x"}"#, Some(r#"{"a":"x"}"#));
    check(r#"["strip", {map = {good = "yes", bad = "no"}}]"#, " good", Some("yes"));
    check(r#"["strip", {map = {good = "yes"}}]"#, "other", Some("other"));
    check(r#"["last_number", {default = "0"}]"#, "none", Some("0"));
    check(r#"["last_number", {default = "0"}]"#, "7", Some("7"));
}

#[test]
fn leading_letters_are_not_articles() {
    for (reply, want) in [
        ("B", Some("B")),
        (" (C) because", Some("C")),
        ("**D**", Some("D")),
        ("A. Cash", Some("A")),
        ("A company", None),
        ("Because", None),
        ("", None),
    ] {
        check(r#"["leading_letter"]"#, reply, want);
    }
}

#[test]
fn labels_match_in_three_ways() {
    let label = |how: &str| format!(r#"[{{label = {{labels = ["positive", "negative", "neutral"], how = "{how}"}}}}]"#);
    check(&label("strict"), " Negative.\n", Some("negative"));
    check(&label("strict"), "It is negative", None);
    check(&label("substring"), "negative, not positive", Some("positive"));
    check(&label("first_word"), "negative, not positive", Some("negative"));
    check(&label("first_word"), "unpositively", None);
    check(&label("substring"), "unsure", None);
}

#[test]
fn numbers_have_one_spelling() {
    for (written, want) in [
        ("$1,200.50", "1200.5"),
        ("(3.0)", "-3"),
        ("7 %", "7"),
        ("-0.00", "0"),
        ("007", "7"),
        (".5", "0.5"),
        ("+4.", "4"),
        ("\u{20ac}12", "12"),
        ("twelve", "twelve"),
        ("1.2.3", "1.2.3"),
        ("--4", "--4"),
    ] {
        assert_eq!(normalize_number(written), want, "{written}");
    }
}

#[test]
fn unknown_steps_are_refused() {
    for steps in [r#"["last_numbr"]"#, r#"[{regex = {pattern = "("}}]"#, r#"[{json = {field = "a"}}]"#] {
        assert!(toml::from_str::<Steps>(&format!("extract = {steps}")).is_err(), "{steps}");
    }
}

proptest::proptest! {
    #[test]
    fn normalising_twice_changes_nothing(text in "[-+($]{0,2}[0-9,.]{0,8}[)% ]{0,2}") {
        let once = normalize_number(&text);
        proptest::prop_assert_eq!(normalize_number(&once), once);
    }
}

/// A list as tasks with written steps have it.
const BEHIND_MARK: &str = r#"[{after = "Answer:"}, "last_number", "normalize_number"]"#;
/// The list of the built-in tasks that end in a number.
const STATED: &str = r#"["answer", "stated_number", "normalize_number"]"#;

#[test]
fn answer_marks_are_read_in_their_common_spellings() {
    for reply in [
        "Answer: 15",
        "**Answer**: 15",
        "**Answer:** 15",
        "**Answer: 15**",
        "__Answer__: 15",
        "answer: 15",
        "ANSWER : 15",
        "Answer = 15",
        "Answer - 15",
        "Final answer: 15",
        "**Final Answer**\n\n15",
        "### Answer\r\n15",
        "Answer:\n15",
        "The answer is 15",
        "The answer is: **15**.",
        "So the final answer is $15$.",
        "The answer to the question is 15.",
        "#### 15",
        "####15",
        "\\boxed{15}",
        "$\\boxed{15}$",
        "so it is \\boxed{\\text{15}}.",
        "\\boxed{{15}}",
        "The answer is \\boxed{15} pens in 3 tins",
        "<answer>15</answer>",
        "<think>Answer: 3</think>\nAnswer: 15",
        "Answer: 3? No.\nAnswer: 15",
    ] {
        check(STATED, reply, Some("15"));
    }
    for reply in ["`15`", "15", "$15.00", "15 pens"] {
        check(STATED, reply, Some("15"));
        check(BEHIND_MARK, reply, None);
    }
    for reply in
        ["There are 3 tins of 5.", "#### Step 3", "\\boxed{15", "To answer, count 3 tins.", "<think>Answer: 15", ""]
    {
        check(STATED, reply, None);
    }
    check(r#"[{after = "@@"}, "strip"]"#, "Answer: 15", None);
    // A step of a task looks for what it says and for nothing like it.
    check(r#"[{after = "Answer:"}, {default = "0"}]"#, "**Answer**: 15", Some("0"));
    check(r#"[{regex = {pattern = "[A-D]"}}]"#, "the answer is 5", None);
    check(r#"["answer", "stated_number", {default = "0"}]"#, "Answer: none\nAnswer: nil", Some("0"));
    check(r#"["answer"]"#, "The answer is **net sales**.", Some("net sales"));
}

#[test]
fn reasoning_is_no_part_of_a_reply() {
    for (reply, want) in [
        ("<think>a</think>b", "b"),
        ("a<THINK>b</THINK>c", "ac"),
        ("<think>a <think>b</think> c</think>d", "d"),
        ("<think>a <think> b</think>c", "c"),
        ("<think>a</think>b<think>c</think>d", "d"),
        ("<think>a</think>b<think>c", "b"),
        ("<thinking>a</thinking>\nb", "\nb"),
        ("[THINK]a[/THINK]b", "b"),
        ("a</think>b", "b"),
        ("a<think>b", "a"),
        ("a < b > c", "a < b > c"),
    ] {
        assert_eq!(without_reasoning(reply), want, "{reply}");
        check("[]", reply, Some(want));
    }
}

#[test]
fn prose_around_an_answer_is_no_answer() {
    for (reply, want) in [
        ("Answer: 18\n\nThe answer was found by multiplying 9 by 2.", Some("18")),
        ("Answer: **18**\n\nConfidence in answer: 95%", Some("18")),
        ("Answer: 18\n\nI hope this answer is helpful!", Some("18")),
        ("\\boxed{18}\n\nThe answer is in dollars.", Some("18")),
        ("#### 18\n\nThe answer is 2 times 9.", Some("18")),
        ("<answer>18</answer>\nThis answer is 100% safe.", Some("18")),
        ("The answer is 18.\n\nThis answer is helpful.", Some("18")),
        ("18\n\nThe answer is found by doubling.", Some("18")),
        ("Answer: 15\nFinal answer:", Some("15")),
        ("9 x 2 = 18, so Final answer: 18", Some("18")),
        ("Answer: 3\nAnswer: 18", Some("18")),
        ("\\boxed{3}\n\nAnswer: 18", Some("18")),
        ("It adds 3 pens. Answer: 18", Some("18")),
        ("There are 18 of them.\n\nThe answer is unclear.", None),
        ("The answer is not 18.", None),
        ("The answer is 18. The answer is not 20.", Some("18")),
    ] {
        check(STATED, reply, want);
    }
    check(r#"["leading_letter"]"#, "B\n\nExplanation: The answer is found by subtracting.", Some("B"));
    let steps = r#"[{label = {labels = ["positive", "negative"], how = "first_word"}}]"#;
    check(steps, "positive\n\nThis answer is based on the growth of profit.", Some("positive"));
    check(steps, "positive\n\nThis answer is negative.", None);
}

#[test]
fn a_choice_letter_is_read_in_its_common_clothes() {
    for reply in [
        "B",
        "B.",
        "B)",
        "(B)",
        "[B]",
        "**B**",
        "`B`",
        "\"B\"",
        "B: Cash",
        "B - Cash",
        "B\u{2014}Cash",
        "B, A bond is a loan",
        "B \u{2013} Cash",
        "B\nCash",
        "B, since it is liquid",
        "B because",
        "B is right",
        "**B) Cash**",
        "**(B)** Cash",
        "Option B",
        "option (B) Cash",
        "Choice B.",
        "b",
        "(b)",
        "Answer: B",
        "**Answer**: B",
        "answer - B",
        "The answer is B.",
        "The answer is (B) Cash",
        "The correct option is B",
        "Final answer: **B**",
        "\\boxed{B}",
        "$\\boxed{\\text{B}}$",
        "\\text{B}",
        "A bond pays.\nAnswer: B",
        "<think>A or C</think>B",
        "A bond pays interest.\n\n**B**",
        "A is incorrect because it is a cost.\nB is correct.",
        "C is wrong.\n\nB",
        "Option A is incorrect. Option B is correct.",
        "A is a cost. B is the right one.",
        "Option A: wrong\nOption B",
        "(A) isn't right. (C) is not right. (B) is.",
        "Answer: B (Net income)",
        "Answer: The answer is B",
        "B [Net income]",
        "b) net income",
        "(b) net income",
        "The answer is (b) net income.",
        "The answer is B.\nThis answer is safe.",
    ] {
        check(r#"["leading_letter"]"#, reply, Some("B"));
    }
    for reply in [
        "A bond is a loan",
        "A",
        "U.S. bonds",
        "B-rated bonds",
        "I think so",
        "Both",
        "A, B",
        "A, B and C",
        "A or B",
        "A/B",
        "(A) and (B)",
        "<think>B",
        "Answer: A bond",
        "A is incorrect.",
        "A is a cost.",
        "A is not right, B is",
        "(a) and (b)",
        "Because",
        "",
    ] {
        check(r#"["leading_letter"]"#, reply, if reply == "A" { Some("A") } else { None });
    }
}

#[test]
fn one_label_is_named_or_none() {
    let steps = r#"[{label = {labels = ["positive", "negative", "neutral", "very positive"], how = "first_word"}}]"#;
    for (reply, want) in [
        ("Positive", Some("positive")),
        ("**Neutral**", Some("neutral")),
        ("Positive? No, negative.", Some("negative")),
        ("It is the opposite of positive.", None),
        ("It would be wrong to say positive.", None),
        ("It is un-positive.", None),
        ("It is less positive.", None),
        ("`negative`.", Some("negative")),
        ("The sentiment is negative.", Some("negative")),
        ("very positive", Some("very positive")),
        ("It is very  positive", Some("positive")),
        ("It is very positive news", Some("very positive")),
        ("not positive, negative", Some("negative")),
        ("negative, not positive", Some("negative")),
        ("negative rather than neutral", Some("negative")),
        ("neither positive nor negative, neutral", Some("neutral")),
        ("not neutral but positive", Some("positive")),
        ("It isn\u{2019}t positive; negative", Some("negative")),
        ("It cannot be called positive. It is neutral.", Some("neutral")),
        ("not positive", None),
        ("non-positive", None),
        ("neither positive nor negative", None),
        ("positive or negative", None),
        ("positive, negative, neutral", None),
        ("from negative to positive", None),
        ("Positive. The negative effects are small.", Some("positive")),
        ("Positive - the negative effects are small", Some("positive")),
        ("Positive because negative effects ended", Some("positive")),
        ("The positive and negative effects cancel.\nneutral", Some("neutral")),
        ("Sentiment: negative\nReason: positive effects ended", Some("negative")),
        ("Positive.\nNegative.", None),
        ("It could be positive.\nAnswer: negative", Some("negative")),
        ("**Answer**: not positive, negative", Some("negative")),
        ("Looks positive. The answer is unclear", None),
        ("far from positive", None),
        ("hardly positive", None),
        ("anything but positive", None),
        ("It lacks any clear and lasting positive sign", None),
        ("It fails to be positive", None),
        ("unlikely to be seen as positive", None),
        ("nothing positive", None),
        ("free of negative news, positive", Some("positive")),
        ("It does not contain any word that one could call positive", None),
        ("Is it positive? It is negative.", Some("negative")),
        ("Is it positive?", None),
        ("Neutral, as there is no positive or negative news.", Some("neutral")),
        ("It does not convey any strong positive or negative sentiment, so it is neutral.", Some("neutral")),
        ("The sentiment is negative, although the outlook was positive before", Some("negative")),
        ("The outlook was positive. However, the sentiment is negative.", None),
        ("<think>positive or negative</think>\nneutral", Some("neutral")),
        ("<think>positive", None),
        ("unpositively", None),
        ("", None),
    ] {
        check(steps, reply, want);
    }
    let steps = r#"[{label = {labels = ["yes", "no"], how = "first_word"}}]"#;
    for (reply, want) in [
        ("No, it is not.", Some("no")),
        ("no", Some("no")),
        ("Yes.", Some("yes")),
        ("yes or no", None),
        ("I have no idea", None),
        ("The text gives no answer.", None),
        ("Yes, there is no doubt", Some("yes")),
        ("The answer is no because it fell", Some("no")),
    ] {
        check(steps, reply, want);
    }
    let steps = r#"[{label = {labels = ["A", "A+", "BB"], how = "first_word"}}]"#;
    for (reply, want) in [("A+", Some("A+")), ("A", Some("A")), ("**a+**", Some("A+")), ("BB.", Some("BB"))] {
        check(steps, reply, want);
    }
    let steps = r#"[{label = {labels = ["0", "1"], how = "first_word"}}]"#;
    for (reply, want) in [("1", Some("1")), ("The label is 0.", Some("0")), ("0 or 1", None), ("10", None)] {
        check(steps, reply, want);
    }
    let steps = r#"[{label = {labels = ["A", "B", "C"], how = "first_word"}}]"#;
    for (reply, want) in
        [("A bond pays.\nAnswer: B", Some("B")), ("A bond pays", None), ("(c)", Some("C")), ("D", None)]
    {
        check(steps, reply, want);
    }
}

#[test]
fn right_answers_go_through_the_last_step_of_their_task() {
    let numbers = STATED;
    let letters = r#"["leading_letter"]"#;
    for (steps, gold, want) in [
        (numbers, "1,234", Ok("1234")),
        (numbers, "$5", Ok("5")),
        (numbers, "12.6%", Ok("12.6")),
        (numbers, "5.0", Ok("5")),
        (numbers, "1234.0", Ok("1234")),
        (numbers, "(3)", Ok("-3")),
        (numbers, "unknown", Err("is no number")),
        (numbers, "3 and 4", Err("is no number")),
        (r#"["last_number"]"#, "$5", Ok("5")),
        ("[{number = {scale = true}}]", "$1.2 million", Ok("1200000")),
        (letters, "b", Ok("B")),
        (letters, "(B)", Ok("B")),
        (letters, "B. Cash", Ok("B")),
        (letters, "Cash", Err("is no letter")),
        (r#"["choice_letter", {default = "A"}]"#, "[[b]]", Ok("B")),
        (r#"["strip"]"#, "5.0", Ok("5.0")),
    ] {
        let parsed: Steps = toml::from_str(&format!("extract = {steps}")).expect(steps);
        let found = as_answer(&parsed.extract, gold);
        assert_eq!(found.as_deref().map_err(String::as_str), want, "{steps} on {gold:?}");
    }
}
