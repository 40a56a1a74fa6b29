//! Shape-checked names for memory, the arena, and one op per kernel family.
