//! Which number stands for what.

use super::*;

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
        ("2 dozen", None),
        ("2-dozen", None),
        ("2^5", None),
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
        ("5 K", "5000", "5"),
        ("$1.2 M", "1200000", "1.2"),
        ("1.2 mil", "1200000", "1.2"),
        ("1.2bln", "1200000000", "1.2"),
        ("3 b", "3000000000", "3"),
        ("3 b)", "3", "3"),
        ("7 meters", "7", "7"),
        ("7 m", "7", "7"),
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
        ("1. 15", Some("15")),
        ("1. $15.", Some("15")),
        ("5. 3 of them are red.", Some("5")),
        ("1) $15", Some("15")),
        ("3 tins of 5 = 15", Some("15")),
        ("15\u{b2}", None),
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
        ("12.6 (2019) and 7.4 (2018)", None),
        ("(5)(3) = 15", Some("15")),
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
