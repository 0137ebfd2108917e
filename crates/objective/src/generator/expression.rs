//! A small language for kernels: numbers, `u`, `pi`, `e`, `+ - * / ^`, parentheses and nine functions of one
//! argument. Read by recursive descent into a postfix program, so that evaluation neither recurses nor allocates.
//! Text is hostile: its length, nesting and stack are bounded.

use crate::error::ObjectiveError;

const MAX_CHARACTERS: usize = 1000;
const MAX_NESTING: usize = 50;
const STACK: usize = 64;

/// An expression in u, ready to be evaluated.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Expression {
    source: String,
    program: Vec<Step>,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Step {
    Number(f64),
    U,
    Negate,
    Add,
    Subtract,
    Multiply,
    Divide,
    Power,
    Call(Function),
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Function {
    Exp,
    Log,
    Sqrt,
    Cosh,
    Sinh,
    Tanh,
    Abs,
    Cos,
    Sin,
}

impl Function {
    fn named(name: &str) -> Option<Self> {
        Some(match name {
            "exp" => Self::Exp,
            "log" | "ln" => Self::Log,
            "sqrt" => Self::Sqrt,
            "cosh" => Self::Cosh,
            "sinh" => Self::Sinh,
            "tanh" => Self::Tanh,
            "abs" => Self::Abs,
            "cos" => Self::Cos,
            "sin" => Self::Sin,
            _ => return None,
        })
    }

    fn at(self, x: f64) -> f64 {
        match self {
            Self::Exp => x.exp(),
            Self::Log => x.ln(),
            Self::Sqrt => x.sqrt(),
            Self::Cosh => x.cosh(),
            Self::Sinh => x.sinh(),
            Self::Tanh => x.tanh(),
            Self::Abs => x.abs(),
            Self::Cos => x.cos(),
            Self::Sin => x.sin(),
        }
    }
}

impl Expression {
    /// Reads `source`.
    pub(crate) fn parse(source: &str) -> Result<Self, ObjectiveError> {
        let mut reader = Reader { text: source.chars().collect(), at: 0, nesting: 0, program: Vec::new() };
        reader.whole().map_err(|problem| ObjectiveError::KernelSyntax {
            expression: source.chars().take(80).collect(),
            position: reader.at + 1,
            problem,
        })?;
        Ok(Self { source: source.trim().to_owned(), program: reader.program })
    }

    /// The text it was read from.
    pub(crate) fn source(&self) -> &str {
        &self.source
    }

    /// The value at u; NaN or infinite where the expression is.
    pub(crate) fn at(&self, u: f64) -> f64 {
        let mut stack = [0.0; STACK];
        let mut top = 0; // the reader has bounded the depth and balanced the operators
        for step in &self.program {
            let binary = |f: fn(f64, f64) -> f64, stack: &mut [f64; STACK], top: &mut usize| {
                *top -= 1;
                stack[*top - 1] = f(stack[*top - 1], stack[*top]);
            };
            match *step {
                Step::Number(x) => {
                    stack[top] = x;
                    top += 1;
                }
                Step::U => {
                    stack[top] = u;
                    top += 1;
                }
                Step::Negate => stack[top - 1] = -stack[top - 1],
                Step::Call(function) => stack[top - 1] = function.at(stack[top - 1]),
                Step::Add => binary(|a, b| a + b, &mut stack, &mut top),
                Step::Subtract => binary(|a, b| a - b, &mut stack, &mut top),
                Step::Multiply => binary(|a, b| a * b, &mut stack, &mut top),
                Step::Divide => binary(|a, b| a / b, &mut stack, &mut top),
                Step::Power => binary(f64::powf, &mut stack, &mut top),
            }
        }
        stack[0]
    }
}

struct Reader {
    text: Vec<char>,
    at: usize,
    nesting: usize,
    program: Vec<Step>,
}

type Read = Result<(), String>;

impl Reader {
    fn whole(&mut self) -> Read {
        if self.text.len() > MAX_CHARACTERS {
            return Err(format!("longer than {MAX_CHARACTERS} characters"));
        }
        self.sum()?;
        match self.next() {
            None => self.check_stack(),
            Some(c) => Err(format!("unexpected {c:?} (a product is written with *)")),
        }
    }

    /// sum := product (('+' | '-') product)*
    fn sum(&mut self) -> Read {
        self.product()?;
        loop {
            let step = match self.next() {
                Some('+') => Step::Add,
                Some('-') => Step::Subtract,
                _ => return Ok(()),
            };
            self.at += 1;
            self.product()?;
            self.program.push(step);
        }
    }

    /// product := signed (('*' | '/') signed)*
    fn product(&mut self) -> Read {
        self.signed()?;
        loop {
            let step = match self.next() {
                Some('*') => Step::Multiply,
                Some('/') => Step::Divide,
                _ => return Ok(()),
            };
            self.at += 1;
            self.signed()?;
            self.program.push(step);
        }
    }

    /// signed := ('-' | '+') signed | power; so -u^2 is -(u^2).
    fn signed(&mut self) -> Read {
        match self.next() {
            Some(sign @ ('-' | '+')) => {
                self.at += 1;
                self.nested(Self::signed)?;
                if sign == '-' {
                    self.program.push(Step::Negate);
                }
                Ok(())
            }
            _ => self.power(),
        }
    }

    /// power := atom ('^' signed)?; associates to the right.
    fn power(&mut self) -> Read {
        self.atom()?;
        if self.next() == Some('^') {
            self.at += 1;
            self.nested(Self::signed)?;
            self.program.push(Step::Power);
        }
        Ok(())
    }

    /// atom := number | 'u' | constant | function '(' sum ')' | '(' sum ')'
    fn atom(&mut self) -> Read {
        match self.next() {
            Some('(') => self.parenthesis(),
            Some(c) if c.is_ascii_digit() || c == '.' => self.number(),
            Some(c) if c.is_ascii_alphabetic() => self.word(),
            Some(c) => Err(format!("expected a number, u, a function or a parenthesis, found {c:?}")),
            None => Err("expected a number, u, a function or a parenthesis, found the end".to_owned()),
        }
    }

    fn parenthesis(&mut self) -> Read {
        self.at += 1;
        self.nested(Self::sum)?;
        if self.next() != Some(')') {
            return Err("expected )".to_owned());
        }
        self.at += 1;
        Ok(())
    }

    fn word(&mut self) -> Read {
        let start = self.at;
        while self.text.get(self.at).is_some_and(|c| c.is_ascii_alphanumeric() || *c == '_') {
            self.at += 1;
        }
        let word: String = self.text[start..self.at].iter().collect();
        let step = match word.as_str() {
            "u" => Step::U,
            "pi" => Step::Number(std::f64::consts::PI),
            "e" => Step::Number(std::f64::consts::E),
            _ => {
                let Some(function) = Function::named(&word) else {
                    self.at = start;
                    return Err(format!(
                        "unknown word {word:?} (known: u, pi, e, exp, log, sqrt, cosh, sinh, tanh, abs, cos, sin)"
                    ));
                };
                if self.next() != Some('(') {
                    return Err(format!("expected ( after {word}"));
                }
                self.parenthesis()?;
                Step::Call(function)
            }
        };
        self.program.push(step);
        Ok(())
    }

    fn number(&mut self) -> Read {
        let start = self.at;
        let digits = |reader: &mut Self| {
            while reader.text.get(reader.at).is_some_and(|c| c.is_ascii_digit() || *c == '.') {
                reader.at += 1;
            }
        };
        digits(self);
        if let Some('e' | 'E') = self.text.get(self.at) {
            let sign = usize::from(matches!(self.text.get(self.at + 1), Some('+' | '-')));
            if self.text.get(self.at + 1 + sign).is_some_and(char::is_ascii_digit) {
                self.at += 1 + sign;
                digits(self);
            }
        }
        let written: String = self.text[start..self.at].iter().collect();
        match written.parse::<f64>() {
            Ok(x) if x.is_finite() => {
                self.program.push(Step::Number(x));
                Ok(())
            }
            _ => {
                self.at = start;
                Err(format!("{written:?} is no finite number"))
            }
        }
    }

    fn nested(&mut self, part: fn(&mut Self) -> Read) -> Read {
        self.nesting += 1;
        if self.nesting > MAX_NESTING {
            return Err(format!("nested deeper than {MAX_NESTING} levels"));
        }
        part(self)?;
        self.nesting -= 1;
        Ok(())
    }

    /// The next character that is not blank.
    fn next(&mut self) -> Option<char> {
        while self.text.get(self.at).is_some_and(|c| c.is_whitespace()) {
            self.at += 1;
        }
        self.text.get(self.at).copied()
    }

    fn check_stack(&self) -> Read {
        let mut depth = 0usize;
        for step in &self.program {
            match step {
                Step::Number(_) | Step::U => depth += 1,
                Step::Negate | Step::Call(_) => {}
                _ => depth -= 1,
            }
            if depth > STACK {
                return Err(format!("needs more than {STACK} intermediate values"));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(source: &str, u: f64) -> f64 {
        Expression::parse(source).unwrap().at(u)
    }

    #[test]
    fn operators_bind_as_in_mathematics() {
        assert_eq!(at("1 + 2*3^2/2 - 4", 0.0), 6.0);
        assert_eq!(at("-u^2", 3.0), -9.0);
        assert_eq!(at("2^3^2", 0.0), 512.0);
        assert_eq!(at("2^-1", 0.0), 0.5);
        assert_eq!(at("8/2/2", 0.0), 2.0);
        assert_eq!(at("1e-3 + .5 + 2.E1", 0.0), 20.501);
        assert_eq!(at("1/(2*cosh(u/2))", 1.5), 1.0 / (2.0 * 0.75f64.cosh()));
        assert!((at("ln(e) + cos(pi)", 0.0)).abs() < 1e-15);
    }

    #[test]
    fn bad_text_is_refused_with_its_place() {
        for (source, place, says) in [
            ("", 1, "found the end"),
            ("2u", 2, "written with *"),
            ("cosh u", 6, "expected ("),
            ("cosh(u", 7, "expected )"),
            ("foo(u)", 1, "unknown word"),
            ("1..2", 1, "no finite number"),
            ("1e999", 1, "no finite number"),
            ("u + ", 5, "found the end"),
            ("u $ 2", 3, "unexpected"),
        ] {
            let Err(ObjectiveError::KernelSyntax { position, problem, .. }) = Expression::parse(source)
            else {
                panic!("{source:?} was read");
            };
            assert_eq!(position, place, "{source:?}: {problem}");
            assert!(problem.contains(says), "{source:?}: {problem}");
        }
    }

    #[test]
    fn hostile_nesting_and_length_end_in_an_error() {
        for source in [
            "(".repeat(900),
            "-".repeat(900),
            format!("1{}", "^1".repeat(400)),
            format!("{}u{}", "cosh(".repeat(100), ")".repeat(100)),
            "1+".repeat(200_000),
        ] {
            assert!(Expression::parse(&source).is_err());
        }
    }
}
