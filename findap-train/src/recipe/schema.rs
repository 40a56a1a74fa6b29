//! The JSON Schema of a recipe, for `findap help recipe` and for editors.

use serde_json::Value;

use super::Recipe;

/// The keys of a recipe with their types, defaults and meanings, which are the doc comments of this module.
pub fn schema() -> Value {
    findap_data::schema::of::<Recipe>("findap recipe")
}
