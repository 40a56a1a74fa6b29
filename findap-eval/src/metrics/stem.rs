//! Porter's stemmer with the extensions of NLTK, by which `rouge_score` compares words.
//!
//! # Source
//! Porter 1980, "An algorithm for suffix stripping"; the extensions as NLTK documents them (`NLTK_EXTENSIONS`).

/// The stem of a word of ASCII lower-case letters and digits.
pub(super) fn stem(word: &str) -> String {
    if let Some((stem, _)) = IRREGULAR.iter().find(|(_, forms)| forms.contains(&word)) {
        return (*stem).to_owned();
    }
    if word.len() <= 2 {
        return word.to_owned();
    }
    let mut word = word.to_owned();
    for step in [plural, past, final_y, double_suffix, single_suffix, bare_suffix, final_e, final_l] {
        word = step(word);
    }
    word
}

const IRREGULAR: [(&str, &[&str]); 12] = [
    ("sky", &["sky", "skies"]),
    ("die", &["dying"]),
    ("lie", &["lying"]),
    ("tie", &["tying"]),
    ("news", &["news"]),
    ("inning", &["innings", "inning"]),
    ("outing", &["outings", "outing"]),
    ("canning", &["cannings", "canning"]),
    ("howe", &["howe"]),
    ("proceed", &["proceed"]),
    ("exceed", &["exceed"]),
    ("succeed", &["succeed"]),
];

/// Step 1a.
fn plural(word: String) -> String {
    if word.len() == 4 && word.ends_with("ies") {
        return word[..3].to_owned();
    }
    replace(word, &[("sses", "ss"), ("ies", "i"), ("ss", "ss"), ("s", "")], |_| true)
}

/// Step 1b.
fn past(word: String) -> String {
    if let Some(stem) = word.strip_suffix("ied") {
        return format!("{stem}{}", if word.len() == 4 { "ie" } else { "i" });
    }
    if let Some(stem) = word.strip_suffix("eed") {
        return if measure(stem) > 0 { format!("{stem}ee") } else { word };
    }
    let stem = ["ed", "ing"].iter().filter_map(|suffix| word.strip_suffix(suffix)).find(|stem| has_vowel(stem));
    let Some(stem) = stem else { return word };
    if let Some((_, longer)) = [("at", "ate"), ("bl", "ble"), ("iz", "ize")].iter().find(|(end, _)| stem.ends_with(end))
    {
        return format!("{}{longer}", &stem[..stem.len() - 2]);
    }
    if ends_in_double_consonant(stem) {
        return if stem.ends_with(['l', 's', 'z']) { stem.to_owned() } else { stem[..stem.len() - 1].to_owned() };
    }
    if measure(stem) == 1 && ends_short(stem) { format!("{stem}e") } else { stem.to_owned() }
}

/// Step 1c: a final y behind a consonant that is not the first letter.
fn final_y(word: String) -> String {
    replace(word, &[("y", "i")], |stem| stem.len() > 1 && is_consonant(stem.as_bytes(), stem.len() - 1))
}

/// Step 2.
fn double_suffix(word: String) -> String {
    if word.strip_suffix("alli").is_some_and(|stem| measure(stem) > 0) {
        return double_suffix(word[..word.len() - 2].to_owned());
    }
    let rules = [
        ("ational", "ate"),
        ("tional", "tion"),
        ("enci", "ence"),
        ("anci", "ance"),
        ("izer", "ize"),
        ("bli", "ble"),
        ("alli", "al"),
        ("entli", "ent"),
        ("eli", "e"),
        ("ousli", "ous"),
        ("ization", "ize"),
        ("ation", "ate"),
        ("ator", "ate"),
        ("alism", "al"),
        ("iveness", "ive"),
        ("fulness", "ful"),
        ("ousness", "ous"),
        ("aliti", "al"),
        ("iviti", "ive"),
        ("biliti", "ble"),
        ("fulli", "ful"),
    ];
    match word.strip_suffix("logi") {
        // The l counts as part of the stem here.
        Some(stem) if measure(&word[..stem.len() + 1]) > 0 => format!("{stem}log"),
        Some(_) => word,
        None => replace(word, &rules, |stem| measure(stem) > 0),
    }
}

/// Step 3.
fn single_suffix(word: String) -> String {
    let rules =
        [("icate", "ic"), ("ative", ""), ("alize", "al"), ("iciti", "ic"), ("ical", "ic"), ("ful", ""), ("ness", "")];
    replace(word, &rules, |stem| measure(stem) > 0)
}

/// Step 4.
fn bare_suffix(word: String) -> String {
    const SUFFIXES: [&str; 19] = [
        "al", "ance", "ence", "er", "ic", "able", "ible", "ant", "ement", "ment", "ent", "ion", "ou", "ism", "ate",
        "iti", "ous", "ive", "ize",
    ];
    let Some(suffix) = SUFFIXES.iter().find(|suffix| word.ends_with(*suffix)) else { return word };
    let stem = &word[..word.len() - suffix.len()];
    if measure(stem) > 1 && (*suffix != "ion" || stem.ends_with(['s', 't'])) { stem.to_owned() } else { word }
}

/// Step 5a.
fn final_e(word: String) -> String {
    let Some(stem) = word.strip_suffix('e') else { return word };
    let measure = measure(stem);
    if measure > 1 || (measure == 1 && !ends_short(stem)) { stem.to_owned() } else { word }
}

/// Step 5b.
fn final_l(word: String) -> String {
    let is_long = word.ends_with("ll") && measure(&word[..word.len() - 1]) > 1;
    if is_long { word[..word.len() - 1].to_owned() } else { word }
}

/// The first suffix of the rules that the word has is replaced, if the rest before it allows that.
fn replace(word: String, rules: &[(&str, &str)], allows: impl Fn(&str) -> bool) -> String {
    for (suffix, other) in rules {
        if let Some(stem) = word.strip_suffix(suffix) {
            return if allows(stem) { format!("{stem}{other}") } else { word };
        }
    }
    word
}

/// A y is a consonant at the beginning and behind a vowel.
fn is_consonant(word: &[u8], at: usize) -> bool {
    match word[at] {
        b'a' | b'e' | b'i' | b'o' | b'u' => false,
        b'y' => at == 0 || !is_consonant(word, at - 1),
        _ => true,
    }
}

fn has_vowel(stem: &str) -> bool {
    (0..stem.len()).any(|at| !is_consonant(stem.as_bytes(), at))
}

/// How often a consonant follows a vowel.
fn measure(stem: &str) -> usize {
    let is_consonant = |at: usize| is_consonant(stem.as_bytes(), at);
    (1..stem.len()).filter(|&at| is_consonant(at) && !is_consonant(at - 1)).count()
}

fn ends_in_double_consonant(word: &str) -> bool {
    let bytes = word.as_bytes();
    let last = bytes.len().wrapping_sub(1);
    bytes.len() >= 2 && bytes[last] == bytes[last - 1] && is_consonant(bytes, last)
}

/// Consonant, vowel, consonant other than w, x and y; or, of two letters, vowel and consonant.
fn ends_short(word: &str) -> bool {
    let bytes = word.as_bytes();
    let is_consonant = |back: usize| is_consonant(bytes, bytes.len() - back);
    match bytes.len() {
        0 | 1 => false,
        2 => !is_consonant(2) && is_consonant(1),
        _ => is_consonant(3) && !is_consonant(2) && is_consonant(1) && !word.ends_with(['w', 'x', 'y']),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // nltk 3.10.4, PorterStemmer().stem(word)
    #[test]
    fn stems_are_those_of_nltk() {
        let pairs = "caresses caress, ponies poni, flies fli, dies die, ties tie, skies sky, cats cat, agreed agre, feed feed, \
            plastered plaster, bled bled, motoring motor, sing sing, conflated conflat, troubled troubl, sized size, \
            hopping hop, falling fall, hissing hiss, fizzed fizz, failing fail, filing file, happy happi, sky sky, \
            enjoy enjoy, toy toy, relational relat, conditional condit, rational ration, valenci valenc, hesitanci \
            hesit, digitizer digit, conformabli conform, radicalli radic, differentli differ, vileli vile, \
            analogousli analog, vietnamization vietnam, predication predic, operator oper, feudalism feudal, \
            decisiveness decis, hopefulness hope, callousness callous, formaliti formal, sensitiviti sensit, \
            sensibiliti sensibl, hopefully hope, geology geolog, logi logi, triplicate triplic, formative form, \
            formalize formal, electriciti electr, electrical electr, hopeful hope, goodness good, revival reviv, \
            allowance allow, inference infer, airliner airlin, gyroscopic gyroscop, adjustable adjust, defensible \
            defens, irritant irrit, replacement replac, adjustment adjust, dependent depend, adoption adopt, \
            homologou homolog, communism commun, activate activ, angulariti angular, homologous homolog, effective \
            effect, bowdlerize bowdler, probate probat, rate rate, cease ceas, controll control, roll roll, dying \
            die, news news, innings inning, proceeds proce, succeeded succeed, exceeding exceed, died die, spied spi, \
            cried cri, eyed eye, using use, owed owe, owing owe, 2019s 2019, 10ks 10k, yearly yearli, days day, tied \
            tie, lied lie, b2b b2b, ally alli, totally total, awfully aw, usually usual, banking bank, banks bank, \
            generalizations gener, oscillators oscil, owned own";
        for pair in pairs.split(", ") {
            let (word, want) = pair.split_once(' ').expect("a pair");
            assert_eq!(stem(word), want, "{word}");
        }
    }
}
