"""What a compiled call is told: the columns of its tables, and the positions in its context.

The network is data: `stages` (one row of integers a stage) says what to compute, so that other layer sizes, depths and
batch sizes compile nothing. Everything a call works on is in one vector of integers (see `_context.py`); the parameters
come beside it and give the float type.
"""

from __future__ import annotations

from fastnn.kernels._context import SLOTS

# Columns of `stages`. A stage computes out = dropout(f(in W + b)), or out = dropout(f(in)) where it has no weights.
(
    KIND,  # DENSE or ELEMENTWISE
    N_IN,  # columns of its input
    N_OUT,  # columns of its output
    ACTIVATION,  # a code of formulas.py
    WEIGHT,  # offset of W (N_IN x N_OUT) in the parameters
    BIAS,  # offset of b in the parameters, or -1
    IN,  # offset of the input in the workspace
    OUT,  # offset of the output
    SOURCE,  # offset of what the derivative reads: OUT, or an array of its own (see KEEP)
    KEEP,  # KEEP_NONE, KEEP_Z (GELU, SiLU) or KEEP_A (the undropped output, where dropout hides it)
    LAYER,  # number of the dropout layer, for its random numbers
    THRESHOLD,  # dropout rate * 2^32, 0 for none
    DELTA,  # offset of the gradient of its sums; the same as of the stage behind it where that has no weights
    SOON, SOON_COLUMNS,  # offset and columns of a W that other threads wrote, to be asked for meanwhile; 0 columns: no
) = range(15)  # fmt: skip
N_STAGE = 15

DENSE, ELEMENTWISE = range(2)
KEEP_NONE, KEEP_Z, KEEP_A = range(3)

# What a call does. APPLY is a step with the gradients that are in GRADS, whoever made them.
TRAIN, GRADIENT, FORWARD, EVALUATE, APPLY = range(5)

# Numbers in the context: what is asked for,
(
    MODE, FIRST_STEP, N_STEPS, FIRST_ROW, N_ROWS, BATCH, LOSS, SEED, THREADS, DROPOUT, OUTPUT,
    WANT_DX, WANT_OUT,
    ROWS_STAY,  # whether what each row left in the workspace is wanted after the call
    X_OFFSET, T_OFFSET, DX, SCRATCH,  # offsets in the workspace; DX: gradient of the input
    SCRATCH_EACH, GRADIENT_BLOCK,  # a thread's scratch: its size, and where in it the gradient of some weights may lie
    STATE_0, STATE_1, STATE_2,  # offsets in the optimizer's state, -1 for a vector that is not kept
    MEMBERS,  # threads of the team
    ROW_TASKS,  # parts of a batch that go through all stages at once, unless chunks do; 0: one stage after the other
    CHUNK_FROM, PARTS,  # rows from which gradients are summed by chunks of rows; place of these in the workspace, or -1
    PIECE_ROWS,  # rows of a chunk that go through all stages at once, about
    RUN_MEMBER, RUN_TASK, GEMM, ACTIVATE, SLOPE, MASK, LOSS_ROWS, UPDATE, SOFTMAX_ROWS,  # addresses of blocks
    STEP, ROW, ROWS,  # the batch at hand; set by `execute`
    PAST_CACHES, TRIED, USUAL_TIME, PAST_TIME,  # which way updated weights take, and trials of it; see `_choose_way`
) = range(44)  # fmt: skip

# and arrays, three integers each; e is the float type of the model.
(
    FLOATS,  # float64 (N_FLOATS,)
    STAGES,  # int64 (stages, N_STAGE)
    SCALES,  # float64 (stages,): 1 / (1 - dropout rate)
    BLOCKS,  # int64 (U, 2): [start, stop) of each block of parameters
    BLOCK_FLOATS,  # float64 (U, 4): its l1, l2, weight decay and truncating l1
    BLOCK_TASKS,  # int64 (tasks + 1,): the first block of each task, and U
    GRADS,  # e, like the parameters
    STATE,  # e: up to three vectors like the parameters
    WORK,  # e: the workspace
    PARTIAL,  # float64 (tasks, 2): sums of the tasks, added up in order
    X,  # e (rows, inputs), or (0, 0) where the samples are bytes or sparse
    X_BYTES,  # uint8 (rows, inputs) or (0, 0)
    X_STARTS,
    X_COLUMNS,
    X_VALUES,  # int64 (rows + 1,), int64 (n,), e (n,): sparse samples, see `_sparse.py`; or (0,)
    RESCALE,  # e (2, inputs): scale and offset of each input; or (0, 0)
    LABELS,  # int64 (rows,) or (0,)
    TARGETS,  # e (rows, outputs) or (0, 0)
    WEIGHTS,  # float64 (rows,), or (0,) where all are 1
    ORDER,  # int64 (rows,), or (0,) for the rows as they stand
    HYPER,  # float64 (N_HYPER,): of the optimizer
    BATCH_LABELS,  # int64 (batch,): of the batch at hand
    BATCH_WEIGHTS,  # float64 (batch,)
    RATES,  # float64 (steps,): learning rate of each step
    REPORT,  # float64 (steps, N_REPORT), out; zeros before; REPORT_ROWS stays 0 for steps not done
    RESULT,  # e, out: (rows, outputs) where WANT_OUT, (rows, inputs) where WANT_DX
    PARAMS,  # e: all parameters, for a call that is not handed them
    TEAM,  # int64: what the threads tell each other (see `_team.py`), zeros before
    WEIGHT_TASKS,  # int64 (tasks, N_WEIGHT_TASK): blocks of weights, columns named below
) = range(PAST_TIME + 1, PAST_TIME + 1 + 29 * SLOTS, SLOTS)
N_CONTEXT = WEIGHT_TASKS + SLOTS

# Columns of `weight_tasks`: whose gradient, and update where it need not wait for all other gradients, is one task.
(
    STAGE_OF,
    ROW_0, ROW_1, COLUMN_0, COLUMN_1,  # the block of the stage's W; where ROW_0 is 0 with those columns of its bias
    WEIGHT_BLOCK, BIAS_BLOCK,  # rows of `block_floats` for the two
) = range(7)  # fmt: skip
N_WEIGHT_TASK = 7

(
    HUBER_DELTA,
    CLIP_NORM,
    TOTAL_WEIGHT,  # of the batch at hand; set by `execute`
    GRADIENT_SCALE,  # by the global norm; set by `execute`
    LOSS_SCALE,  # what the loss's gradient is multiplied by; the reported loss is not
    PER_WEIGHT,  # 1 where penalties are divided by the batch's weight, as in scikit-learn; else 0
    PENALTY_SCALE,  # what penalties are multiplied by at this step; set by `execute`
) = range(7)
N_FLOATS = 7

# What is done to the outputs of the last stage.
LOGITS, SOFTMAX_FOLDED, SIGMOID_FOLDED, SOFTMAX = range(4)

# Columns of the report, one row a step (or a block of rows, in evaluation).
REPORT_LOSS, REPORT_WEIGHT, REPORT_CORRECT, REPORT_PENALTY, REPORT_NORM, REPORT_ROWS = range(6)
N_REPORT = 6

# Operations that are cut into tasks. OP_ROWS is OP_GATHER .. OP_BACKWARD for some of the rows.
OP_ROWS, OP_GATHER, OP_FORWARD, OP_LOSS, OP_BACKWARD, OP_WEIGHTS, OP_CHUNKS, OP_PENALTY, OP_NORM, OP_UPDATE = range(10)
