//! Numbers in a GPU's memory, by address and shape. What launches kernels is a trait, because the same launches are
//! also carried out by an emulation of the kernels on the CPU (`tests/operations/emulator.rs`).

use std::marker::PhantomData;

use crate::CudaError;

/// What kind of numbers lie at an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Number {
    /// IEEE single precision.
    F32,
    /// bfloat16.
    Bf16,
    /// IEEE double precision: sums.
    F64,
    /// Token ids, positions, rows.
    U32,
    /// Bytes: codes of weights in few bits.
    U8,
}

impl Number {
    /// Bytes of one number.
    pub fn size_in_bytes(self) -> usize {
        match self {
            Self::F32 | Self::U32 => 4,
            Self::Bf16 => 2,
            Self::F64 => 8,
            Self::U8 => 1,
        }
    }
}

/// A row-major matrix in the memory that kernels see, borrowed from what owns it.
#[derive(Debug, Clone, Copy)]
pub struct View<'a> {
    address: u64,
    rows: usize,
    cols: usize,
    number: Number,
    owner: PhantomData<&'a ()>,
}

impl<'a> View<'a> {
    /// Numbers at `address`.
    ///
    /// # Safety
    /// For the view's life, kernels may read and write `rows * cols` of these numbers there, the address is a multiple
    /// of their size, and the host touches them only after the kernels are done.
    pub unsafe fn at(address: u64, number: Number, rows: usize, cols: usize) -> Self {
        Self { address, rows, cols, number, owner: PhantomData }
    }

    /// Number of rows.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Number of columns.
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// Number of values.
    pub fn len(&self) -> usize {
        self.rows * self.cols
    }

    /// Whether there is no value.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Kind of the values.
    pub fn number(&self) -> Number {
        self.number
    }

    /// Where the first value is.
    pub fn address(&self) -> u64 {
        self.address
    }

    /// The values from number `first` on, row after row, as a matrix of another shape.
    ///
    /// # Errors
    /// There are not so many.
    pub fn part(&self, first: usize, rows: usize, cols: usize) -> Result<View<'a>, CudaError> {
        let end = rows.checked_mul(cols).and_then(|len| len.checked_add(first));
        if end.is_none_or(|end| end > self.len()) {
            let reason = format!("{rows} x {cols} values from {first} on, of {}", self.len());
            return Err(CudaError::shape("part", reason));
        }
        let address = self.address + (first * self.number.size_in_bytes()) as u64;
        Ok(View { address, rows, cols, ..*self })
    }

    /// Refuses another kind or number of values than these.
    pub(crate) fn expect(
        &self,
        operation: &'static str,
        what: &str,
        number: Number,
        len: usize,
    ) -> Result<(), CudaError> {
        if self.number == number && self.len() == len {
            return Ok(());
        }
        let found = format!("found {} in {:?}", self.len(), self.number);
        Err(CudaError::shape(operation, format!("{what} must be {len} values in {number:?}, {found}")))
    }
}

/// A kernel's argument.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Argument {
    /// A pointer; 0 where there is none.
    Address(u64),
    /// `unsigned int`.
    U32(u32),
    /// `unsigned long long`.
    U64(u64),
    /// `float`.
    F32(f32),
}

impl From<View<'_>> for Argument {
    fn from(view: View<'_>) -> Self {
        Self::Address(view.address)
    }
}

impl From<Option<View<'_>>> for Argument {
    fn from(view: Option<View<'_>>) -> Self {
        Self::Address(view.map_or(0, |view| view.address))
    }
}

impl From<f32> for Argument {
    fn from(value: f32) -> Self {
        Self::F32(value)
    }
}

impl From<u32> for Argument {
    fn from(value: u32) -> Self {
        Self::U32(value)
    }
}

impl From<u64> for Argument {
    fn from(value: u64) -> Self {
        Self::U64(value)
    }
}

impl From<bool> for Argument {
    fn from(value: bool) -> Self {
        Self::U32(u32::from(value))
    }
}

/// One launch.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Call<'a> {
    /// Name of the kernel.
    pub kernel: &'a str,
    /// Blocks along x and y.
    pub grid: [u32; 2],
    /// Threads of a block.
    pub threads: u32,
    /// In the kernel's order.
    pub arguments: &'a [Argument],
}

/// A product of matrices: `c = a b`, or `c += a b` where `add`.
#[derive(Debug, Clone, Copy)]
pub struct Product<'a> {
    /// `[m, k]`, or `[k, m]` where it is turned round.
    pub a: View<'a>,
    /// Whether rows and columns of `a` change places.
    pub a_turned: bool,
    /// `[k, n]`, or `[n, k]` where it is turned round.
    pub b: View<'a>,
    /// Whether rows and columns of `b` change places.
    pub b_turned: bool,
    /// `[m, n]`.
    pub c: View<'a>,
    /// Whether the product is added to what `c` holds.
    pub add: bool,
}

/// What carries launches out, one after another.
pub trait Launcher {
    /// Starts a kernel; its results are there for those started after it.
    ///
    /// # Safety
    /// The arguments are of the types that the kernel takes, and every address has the room that the kernel uses.
    ///
    /// # Errors
    /// There is no such kernel; the launch is refused.
    unsafe fn launch(&self, call: &Call<'_>) -> Result<(), CudaError>;

    /// Starts a product by something better than the kernels, if there is such; false leaves it to them.
    ///
    /// # Safety
    /// The sizes are those that [`Product`] says.
    ///
    /// # Errors
    /// There is something better, and it fails.
    unsafe fn multiply(&self, _product: &Product<'_>) -> Result<bool, CudaError> {
        Ok(false)
    }
}
