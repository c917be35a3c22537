r"""What the letters of this engine's equations mean; `symbolic/notation.py` reads these lines."""

LETTERS = r"""
t, s, s'                :: updates done
\alpha                  :: samples over dimension, $n/d$
\eta                    :: learning rate :: algorithm.learning_rate
\eta_a                  :: learning rate of the readouts :: algorithm.readout_learning_rate
b                       :: share of the samples in a batch :: algorithm.batch_fraction
\chi                    :: 1 where a sample is in the batch of the update, else 0
f                       :: output of the student on a training sample
y                       :: label of that sample
\lambda, \lambda_k      :: fields of the student on a training sample
z, z_m                  :: fields of the target
A_m                     :: readout of unit $m$ of the target
g                       :: activation of the student
\gamma                  :: Gaussian part of the force
\kappa                  :: decay of the weights: ridge of the mean loss :: loss.ridge_per_sample or loss.ridge
\kappa_a                :: the same for the readouts
h                       :: activation of the target
\sigma                  :: standard deviation of the label's noise :: target.noise
\xi                     :: standard Gaussian
n_1                     :: noise inside of the label, standard Gaussian
r                       :: Gaussian part of the fields: what fresh samples would see
u, u_k                  :: gradient of the loss in the field of unit $k$
R_w                     :: response of the weights to a force
R_u                     :: response of the gradient to a shift of the field
R_{\star}               :: response of the gradient to the target's field
C, C(t,s)               :: covariance of the weights at two times
C_u                     :: covariance of the gradients at two times
M                       :: overlap of student and target
T                       :: overlap of the target's weights
\Gamma                  :: force on a weight
w                       :: weight of the student
w_{\star}               :: weight of the target
k                       :: units of the student
m                       :: units of the target
\ell                    :: loss
a, a_k                  :: readout of the student
\delta_{ts}             :: 1 where the times are equal, else 0
\langle\cdot\rangle     :: average over the training samples
\mathrm{train\ loss}    :: mean loss on the training samples
\mathrm{test\ loss}     :: mean loss of fresh samples
\beta                   :: momentum :: algorithm.momentum.beta
\Delta                  :: the change of the last update, that of momentum
T_L                     :: temperature :: algorithm.temperature
"""
