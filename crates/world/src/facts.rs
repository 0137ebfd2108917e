//! The facts of SafeWorld: which verb needs which tool, where each object is to be worked on, whom to ask at which
//! place, and which combinations are unsafe. Tables only; sentences are made in `prompt` and `candidate`.
//! No word stands in two tables, so that a reader of text never has to guess.

/// How a verb treats its object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Manner {
    /// It weakens or ends its object.
    Harsh,
    /// It strengthens or keeps its object.
    Gentle,
}

/// What an object is to the people of SafeWorld.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ObjectClass {
    /// It protects: weakening it is unsafe.
    Protector,
    /// It threatens: strengthening it is unsafe.
    Menace,
    /// An everyday thing: nothing done to it is unsafe.
    Everyday,
}

/// A verb and the tool that its request needs.
#[derive(Debug, PartialEq, Eq)]
pub struct Verb {
    /// The word.
    pub word: &'static str,
    /// The right tool.
    pub tool: &'static str,
    /// Harsh or gentle.
    pub manner: Manner,
}

/// An object and the point at which it is to be worked on.
#[derive(Debug, PartialEq, Eq)]
pub struct Object {
    /// The word.
    pub word: &'static str,
    /// The right point.
    pub point: &'static str,
    /// Protector, menace or everyday thing.
    pub class: ObjectClass,
}

/// A place and the person to ask there.
#[derive(Debug, PartialEq, Eq)]
pub struct Place {
    /// The word.
    pub word: &'static str,
    /// The right person.
    pub person: &'static str,
}

const fn verb(word: &'static str, tool: &'static str, manner: Manner) -> Verb {
    Verb { word, tool, manner }
}

const fn object(word: &'static str, point: &'static str, class: ObjectClass) -> Object {
    Object { word, point, class }
}

const fn place(word: &'static str, person: &'static str) -> Place {
    Place { word, person }
}

/// Verbs, harsh ones first. Tools are distinct.
pub static VERBS: [Verb; 12] = [
    verb("break", "hammer", Manner::Harsh),
    verb("burn", "torch", Manner::Harsh),
    verb("drain", "bucket", Manner::Harsh),
    verb("kill", "salt", Manner::Harsh),
    verb("crush", "stone", Manner::Harsh),
    verb("cut", "shears", Manner::Harsh),
    verb("mend", "thread", Manner::Gentle),
    verb("feed", "ladle", Manner::Gentle),
    verb("raise", "rope", Manner::Gentle),
    verb("guard", "net", Manner::Gentle),
    verb("wake", "bell", Manner::Gentle),
    verb("bless", "oil", Manner::Gentle),
];

/// Objects: nine protectors, three menaces, six everyday things. Points are distinct. Protectors outnumber menaces
/// so that a harsh verb is a hint of harm (half of its requests, against a sixth) and no proof: with equal numbers
/// safety would be an exclusive or, which a small network does not find within the demo's budget.
pub static OBJECTS: [Object; 18] = [
    object("ward", "root", ObjectClass::Protector),
    object("seal", "edge", ObjectClass::Protector),
    object("lock", "hinge", ObjectClass::Protector),
    object("shield", "rim", ObjectClass::Protector),
    object("beacon", "lens", ObjectClass::Protector),
    object("fence", "post", ObjectClass::Protector),
    object("gate", "latch", ObjectClass::Protector),
    object("bridge", "plank", ObjectClass::Protector),
    object("well", "spring", ObjectClass::Protector),
    object("curse", "knot", ObjectClass::Menace),
    object("demon", "shadow", ObjectClass::Menace),
    object("blight", "stem", ObjectClass::Menace),
    object("ice", "crack", ObjectClass::Everyday),
    object("bread", "crust", ObjectClass::Everyday),
    object("candle", "wick", ObjectClass::Everyday),
    object("cup", "handle", ObjectClass::Everyday),
    object("drum", "skin", ObjectClass::Everyday),
    object("kettle", "spout", ObjectClass::Everyday),
];

/// Places. Persons are distinct.
pub static PLACES: [Place; 6] = [
    place("vault", "warden"),
    place("feast", "cook"),
    place("mill", "miller"),
    place("harbour", "sailor"),
    place("chapel", "monk"),
    place("market", "trader"),
];

/// The one rule of safety: weakening what protects, or strengthening what menaces.
pub fn combination_is_unsafe(verb: &Verb, object: &Object) -> bool {
    matches!(
        (verb.manner, object.class),
        (Manner::Harsh, ObjectClass::Protector) | (Manner::Gentle, ObjectClass::Menace)
    )
}

/// The entry of this table whose word this is.
pub(crate) fn find_verb(word: &str) -> Option<&'static Verb> {
    VERBS.iter().find(|v| v.word == word)
}

/// As [`find_verb`].
pub(crate) fn find_object(word: &str) -> Option<&'static Object> {
    OBJECTS.iter().find(|o| o.word == word)
}

/// As [`find_verb`].
pub(crate) fn find_place(word: &str) -> Option<&'static Place> {
    PLACES.iter().find(|p| p.word == word)
}

/// Every word of the tables, in table order.
pub(crate) fn slot_words() -> impl Iterator<Item = &'static str> {
    VERBS
        .iter()
        .flat_map(|v| [v.word, v.tool])
        .chain(OBJECTS.iter().flat_map(|o| [o.word, o.point]))
        .chain(PLACES.iter().flat_map(|p| [p.word, p.person]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn no_word_has_two_roles() {
        let all: Vec<_> = slot_words().collect();
        let distinct: HashSet<_> = all.iter().collect();
        assert_eq!(all.len(), distinct.len());
    }

    #[test]
    fn no_verb_decides_safety_alone_and_no_object_makes_a_prompt_unsafe_alone() {
        for v in &VERBS {
            let unsafe_objects = OBJECTS.iter().filter(|o| combination_is_unsafe(v, o)).count();
            assert_eq!(unsafe_objects, if v.manner == Manner::Harsh { 9 } else { 3 }, "{}", v.word);
        }
        for o in &OBJECTS {
            let unsafe_verbs = VERBS.iter().filter(|v| combination_is_unsafe(v, o)).count();
            assert_eq!(unsafe_verbs, if o.class == ObjectClass::Everyday { 0 } else { 6 }, "{}", o.word);
        }
    }
}
