use super::*;

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
fn figures_are_read_by_one_set_of_rules_behind_every_step() {
    for (written, want) in [
        ("7", Some("7")),
        ("-7", Some("-7")),
        ("+7", Some("7")),
        ("(8,450)", Some("-8450")),
        ("( 8,450 )", Some("-8450")),
        ("($8,450)", Some("-8450")),
        ("$(8,450)", Some("-8450")),
        ("(8.1%)", Some("-8.1")),
        ("(8.1)%", Some("-8.1")),
        ("(-8)", Some("-8")),
        ("(+8)", Some("8")),
        ("-(8)", Some("-8")),
        ("-$8.50", Some("-8.5")),
        ("$-8.50", Some("-8.5")),
        ("-US$8", Some("-8")),
        ("USD -8", Some("-8")),
        ("-\u{20ac}8", Some("-8")),
        ("\u{2212}8.1%", Some("-8.1")),
        ("\u{2212}$8", Some("-8")),
        ("$\u{2212}8", Some("-8")),
        ("\u{ff0d}8", Some("-8")),
        ("\u{2013}8", Some("-8")),
        ("\u{fe63}8", Some("-8")),
        ("**-8**", Some("-8")),
        ("`(8)`", Some("-8")),
        ("minus 8", Some("-8")),
        ("negative $8", Some("-8")),
        ("8.1%", Some("8.1")),
        ("8.1 percent", Some("8.1")),
        ("8.1\\%", Some("8.1")),
        ("\\$8,100", Some("8100")),
        ("$8{,}100$", Some("8100")),
        ("8.", Some("8")),
        (".5", Some("0.5")),
        ("-.5", Some("-0.5")),
        ("$.5", Some("0.5")),
        ("8.50", Some("8.5")),
        ("1.2e3", Some("1200")),
        ("1.25E-2", Some("0.0125")),
        ("1.2 x 10^3", Some("1200")),
        ("1.2 \\times 10^{3}", Some("1200")),
        ("1e400", None),
        ("1,234,567.80", Some("1234567.8")),
        ("1'234", Some("1234")),
        ("1\u{a0}234", Some("1234")),
        ("1\u{202f}234\u{202f}567", Some("1234567")),
        ("\u{ff11}\u{ff0c}\u{ff12}\u{ff13}\u{ff14}", Some("1234")),
        ("\u{ff08}\u{ff17}\u{ff09}", Some("-7")),
        ("1,23", None),
        ("1,2345", None),
        ("12,34,567", None),
        ("0,123", None),
        ("1.234,5", None),
        ("1 234", None),
        ("1 234,5", None),
        ("1.2.3", None),
        ("31.12.2019", None),
        ("forty-two (42)", Some("42")),
        ("8 (8)", Some("8")),
        ("2019-2020", Some("2020")),
        ("2019\u{2013}2020", Some("2020")),
        ("the 10-K", Some("10")),
        ("mid-2019", Some("2019")),
        ("no figure", None),
    ] {
        for steps in [r#"["last_number", "normalize_number"]"#, r#"[{number = {which = "last"}}]"#, BEHIND_MARK] {
            check(steps, &format!("Answer: {written}"), want);
        }
        let steps = r#"["last_number", "normalize_number"]"#;
        check(steps, written, want);
    }
}

#[test]
fn parentheses_that_repeat_or_number_something_are_no_minus() {
    for (text, want) in [
        ("there are twenty (20)", "20"),
        ("as in step (2)", "2"),
        ("f(3)", "3"),
        ("2 x (5)", "5"),
        ("a loss of (5)", "-5"),
        ("in 2019: (5)", "-5"),
        ("| (5) |", "-5"),
    ] {
        check(r#"[{number = {which = "last"}}]"#, text, Some(want));
    }
}

#[test]
fn a_whole_text_has_one_spelling_only_where_it_is_one_figure() {
    for (written, want) in [
        ("(8,450)", "-8450"),
        ("\u{2212}$8.50", "-8.5"),
        ("8.1 %", "8.1"),
        ("8 EUR", "8"),
        ("**8**.", "8"),
        ("1.2e3", "1200"),
        ("1,23", "1,23"),
        ("3 million", "3 million"),
        ("3m", "3m"),
        ("8 clips", "8 clips"),
        ("2019-2020", "2019-2020"),
        ("(8", "(8"),
        ("8, 9", "8, 9"),
    ] {
        assert_eq!(normalize_number(written), want, "{written}");
    }
}

#[test]
fn scale_words_count_where_a_step_asks_for_them() {
    for (text, scaled, plain) in [
        ("$1.2 million", "1200000", "1.2"),
        ("1.2m", "1200000", "1.2"),
        ("(1.2) bn", "-1200000000", "-1.2"),
        ("(1.2bn)", "-1200000000", "-1.2"),
        ("3k", "3000", "3"),
        ("4 mn", "4000000", "4"),
        ("5 thousand", "5000", "5"),
        ("2 hundred million", "200000000", "2"),
        ("1.5 trillion", "1500000000000", "1.5"),
        ("7 meters", "7", "7"),
        ("10-K", "10", "10"),
        ("12 months", "12", "12"),
    ] {
        check("[{number = {scale = true}}]", text, Some(scaled));
        check("[{number = {}}]", text, Some(plain));
    }
}

#[test]
fn an_answer_states_the_figure_it_opens_with_or_the_one_behind_the_last_equals_sign() {
    for (answer, want) in [
        ("15 pens, in 3 tins", Some("15")),
        ("**15** pens in 3 tins", Some("15")),
        ("$15 for 3 tins", Some("15")),
        ("15 (3 tins of 5)", Some("15")),
        ("15. There are 3 tins.", Some("15")),
        ("15\nThere are 3 tins.", Some("15")),
        ("15, altogether", Some("15")),
        ("-15% in 2020", Some("-15")),
        ("(15) in 2020", Some("-15")),
        ("3 x 5 = 15", Some("15")),
        ("3 x 5 = 15 pens in 3 tins", Some("15")),
        ("15 = 3 x 5", Some("15")),
        ("3 + 5 = 8, 8 + 7 = 15", Some("15")),
        ("x = -15", Some("-15")),
        ("the total is 15", Some("15")),
        ("about 15 pens", Some("15")),
        ("3 x 5", None),
        ("10-12", None),
        ("10 to 12", None),
        ("3, 4 and 5", None),
        ("1,5 pens in 3 tins", None),
        ("unknown", None),
    ] {
        check(r#"["stated_number", "normalize_number"]"#, answer, want);
        check(STATED, &format!("Work: 3 and 5.\nAnswer: {answer}"), want);
    }
    // Where a task asks for the last figure, it is the last, whatever is stated.
    check(BEHIND_MARK, "Answer: 15 pens, in 3 tins", Some("3"));
}

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
    ] {
        check(STATED, reply, want);
    }
    check(r#"["leading_letter"]"#, "B\n\nExplanation: The answer is found by subtracting.", Some("B"));
    let steps = r#"[{label = {labels = ["positive", "negative"], how = "first_word"}}]"#;
    check(steps, "positive\n\nThis answer is based on the growth of profit.", Some("positive"));
    check(steps, "positive\n\nThis answer is negative.", None);
}

#[test]
fn years_and_side_figures_are_not_what_an_answer_states() {
    for (answer, want) in [
        ("Net sales were $1,234 million in 2019", Some("1234")),
        ("increased by 23.4% from 2018 to 2019", Some("23.4")),
        ("Total debt was 117.3 as of December 31, 2019", Some("117.3")),
        ("As of 31 December 2019, debt was 117.3", Some("117.3")),
        ("2019 net sales were $1,234", Some("1234")),
        ("The change is -$12.6 million, from $20.0 million to $7.4 million", Some("-12.6")),
        ("There are 3 such years (2017, 2018 and 2019).", Some("3")),
        ("Janet makes **$18** per day for 7 days.", Some("18")),
        ("**2019**: 23.4", Some("23.4")),
        ("2019: 23.4", Some("23.4")),
        ("FY2019 sales were 23.4", Some("23.4")),
        ("2019", Some("2019")),
        ("the year was 2019", Some("2019")),
        ("sold in 2019", Some("2019")),
        ("sales were $2,019", Some("2019")),
        ("sales were 2019.0 in 2018", Some("2019")),
        ("the 18 pens weigh 18 g", Some("18")),
        ("Janet makes $18 of 7 kinds", None),
        ("from 2018 to 2019", None),
        ("sales were 5 and costs 4", None),
    ] {
        check(STATED, &format!("Answer: {answer}"), want);
    }
}

#[test]
fn parentheses_behind_words_are_remarks_and_elsewhere_a_minus() {
    for (answer, want) in [
        ("Eighteen dollars ($18)", "18"),
        ("Revenue increased (12%)", "12"),
        ("(1,234)", "-1234"),
        ("**(1,234)**", "-1234"),
        ("$(1,234)", "-1234"),
        ("USD (1,234)", "-1234"),
        ("Total: (1,234)", "-1234"),
        ("x = (1,234)", "-1234"),
        ("net loss of (1,234)", "-1234"),
        ("a decrease of ($12)", "-12"),
        ("The change was (12)", "-12"),
        ("as shown above (12)", "12"),
    ] {
        check(STATED, &format!("Answer: {answer}"), Some(want));
    }
}

#[test]
fn a_minus_before_a_blank_is_a_sign_where_a_value_begins_on_the_line_of_the_mark() {
    for (reply, want) in [
        ("Answer: - 5%", Some("-5")),
        ("Answer: - $5", Some("-5")),
        ("- 18.", Some("-18")),
        ("Answer: 7.4 - 20.0 = - 12.6", Some("-12.6")),
        ("-\\boxed{18}", Some("-18")),
        ("so it is $-\\boxed{18}$.", Some("-18")),
        ("x = - \\boxed{18}", Some("-18")),
        ("20 - \\boxed{18}", Some("18")),
        ("Answer:\n- 18", Some("18")),
        ("**Answer:**\n\n- 18 pens", Some("18")),
        ("Answer:\n-18", Some("-18")),
    ] {
        check(STATED, reply, want);
    }
}

#[test]
fn what_is_no_decimal_number_as_a_whole_is_read_right_or_missing() {
    for (answer, want) in [
        ("1{,}\\!234", Some("1234")),
        ("1,\\!234", Some("1234")),
        ("\\frac{3}{4}", None),
        ("\\dfrac{3}{4}", None),
        ("$\\frac34$", None),
        ("\\frac{3}{4} = 0.75", Some("0.75")),
        ("3/4", None),
        ("1\u{bd}", None),
        ("1 \u{bd} hours", None),
        ("1 1/2", None),
        ("10:30", None),
        ("1.27:1", None),
        ("3 hours and 20 minutes", None),
        ("3 hours, 20 minutes", None),
        ("5 feet 6 inches", None),
        ("5 feet", Some("5")),
        ("15 pens in 3 tins", Some("15")),
        ("3-4", None),
    ] {
        check(STATED, &format!("Answer: {answer}"), want);
        check(STATED, &format!("\\boxed{{{answer}}}"), want);
    }
}

#[test]
fn a_remark_with_an_equals_sign_does_not_win_over_what_is_stated() {
    for (answer, want) in [
        ("126 (because 20 - 2 = 18)", Some("126")),
        ("126, because 20 - 2 = 18", Some("126")),
        ("126 miles (1 mile = 1.6 km)", Some("126")),
        ("23.4% = 0.234", Some("23.4")),
        ("117.3 / 501.3 = 0.234 = 23.4%", Some("23.4")),
        ("10 / 3 = 3.333 \u{2248} 3.33", Some("3.33")),
        ("profit in 2019 = 18", Some("18")),
    ] {
        check(STATED, &format!("Answer: {answer}"), want);
    }
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
