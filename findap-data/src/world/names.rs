//! Invented words for names, and the everyday words that exercises and sentences use.

use std::collections::BTreeSet;

use super::draw::Draw;

const STARTS: [&str; 20] =
    ["B", "Br", "D", "Dr", "F", "G", "Gr", "H", "K", "Kr", "L", "M", "N", "P", "R", "S", "T", "Tr", "V", "Z"];
const MIDDLES: [&str; 12] = ["ala", "eli", "ora", "umo", "ari", "eno", "ilo", "oda", "usa", "ane", "iva", "ebo"];
const ENDS: [&str; 12] = ["n", "r", "l", "m", "s", "k", "x", "nd", "rt", "st", "lm", "th"];

/// A new word with a capital, never the same one twice.
pub(super) fn invent(draw: &mut Draw, taken: &mut BTreeSet<String>) -> String {
    for extra in 0.. {
        let mut word = format!("{}{}{}", draw.word(&STARTS), draw.word(&MIDDLES), draw.word(&ENDS));
        if extra > 100 {
            // Large worlds run out of short words.
            word.push_str(draw.word(&MIDDLES));
            word.push_str(draw.word(&ENDS));
        }
        if taken.insert(word.clone()) {
            return word;
        }
    }
    unreachable!("the loop has no end")
}

/// First names in word problems and sentences.
pub(super) const PEOPLE: [&str; 16] = [
    "Anna", "Ben", "Clara", "David", "Emma", "Felix", "Grace", "Henry", "Ida", "Jack", "Karin", "Leo", "Maria", "Noah",
    "Olga", "Paul",
];

/// Things that word problems count.
pub(super) const ITEMS: [&str; 10] =
    ["apples", "books", "coins", "pens", "eggs", "cards", "stamps", "shells", "flowers", "marbles"];

/// Groups of words of one sort, for lists and odd words.
pub(super) const GROUPS: [(&str, [&str; 8]); 6] = [
    ("fruits", ["apple", "pear", "plum", "cherry", "lemon", "grape", "melon", "peach"]),
    ("animals", ["cow", "sheep", "duck", "lion", "tiger", "wolf", "bear", "eagle"]),
    ("colours", ["red", "blue", "green", "yellow", "white", "black", "orange", "purple"]),
    ("tools", ["hammer", "saw", "drill", "shovel", "knife", "broom", "ladder", "rope"]),
    ("clothes", ["shirt", "coat", "hat", "shoe", "glove", "scarf", "sock", "dress"]),
    ("vehicles", ["car", "train", "ship", "bus", "truck", "plane", "tram", "boat"]),
];

/// Groups of finance words, for lists.
pub(super) const FINANCE_GROUPS: [(&str, [&str; 8]); 3] = [
    ("sectors", ["banking", "energy", "retail", "insurance", "mining", "transport", "software", "housing"]),
    ("currencies", ["dollar", "euro", "yen", "pound", "franc", "krona", "peso", "rupee"]),
    ("exchanges", ["London", "Zurich", "Tokyo", "Paris", "Toronto", "Sydney", "Frankfurt", "Milan"]),
];
