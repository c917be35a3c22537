r"""What the letters of this engine's equations mean; `symbolic/notation.py` reads these lines."""

MODEL = r"""
d                       :: dimension of the input
t                       :: time, updates over $d$
x                       :: input; argument of a function
f                       :: output of the student
f_\star                 :: target without noise
y                       :: label
y_o                     :: label of output $o$
f_o, f_p                :: output of the student
\ell                    :: loss
\Delta, \Delta_i        :: derivative of the loss in the output of the student, as unit $i$ meets it
g                       :: activation of the student
\tilde g                :: activation of the teacher
\hat g, \hat g_{\alpha}, \hat{\tilde g} :: activation as a sum of error functions
w_k                     :: weights of unit $k$ of the student
w^{\star}_m             :: weights of unit $m$ of the target
\lambda_k               :: field of unit $k$: its weights times the input
z_m                     :: field of the target's direction $m$
z                       :: field of the target's only direction
\zeta                   :: standard Gaussian
\zeta_o                 :: standard Gaussian, one an output
\sigma                  :: standard deviation of the label's noise :: target.noise
A_m, A_1, A_M           :: readout of unit $m$ of the target
a_k, a_1, a_K           :: readout of unit $k$ of the student
T                       :: overlaps of the target's weights
\varepsilon_g           :: generalisation error: half the squared error on fresh inputs, without label noise
k, i, j, l              :: units of the student
m                       :: units or directions of the target
o, p                    :: outputs
\alpha, \beta, \gamma   :: all fields, those of the student first
\eta                    :: learning rate :: algorithm.learning_rate
\eta_0                  :: learning rate before its schedule :: algorithm.learning_rate
\eta_a                  :: learning rate of the readouts :: algorithm.readout_learning_rate
\kappa                  :: decay of the weights :: algorithm.weight_decay
\kappa_a                :: decay of the readouts :: algorithm.weight_decay
\xi_1, \xi_2            :: standard Gaussians
\varphi                 :: error function of which activations are sums, $\operatorname{erf}(x/\sqrt2)$
"""

PLAIN = (
    r"""
c, c_{\alpha}           :: readouts of all units in one list, those of the target with a minus sign
C, C_{\alpha\beta}      :: covariance of all fields
N                       :: number of units in that list
N_{ik}                  :: second moment of the gradients of two units
K                       :: hidden units of the student :: student.width
B                       :: samples in a batch :: algorithm.batch_size
u_{i\gamma}             :: covariance of two fields, tilted by the slope of unit $i$
w_{ik\gamma}            :: covariance of two fields, tilted by the slopes of units $i$ and $k$
D_{i\beta}              :: gradient of unit $i$ along a field
H_i                     :: gradient of a readout
\mathbf{f}              :: all fields
g_{\alpha0}             :: constant of an activation as a sum
v_{\alpha p}            :: weight of an error function in that sum
b_{\alpha p}            :: scale of an error function in that sum
p, q                    :: error functions of that sum
"""
    + MODEL
)

DISPLACED = (
    r"""
G                       :: sum of the gradients of one sample
g                       :: gradient of one sample at a field, in descent direction
s                       :: activation of the student
\lambda                 :: field of the student's unit
\rho                    :: displacement: how far a trial step goes :: algorithm.displacement
a                       :: readout of the student
y_0                     :: label without noise
w                       :: weights of the student
\xi                     :: standard Gaussian
"""
    + MODEL
)

TABLE = (
    r"""
m_c                     :: mean of the input, given the source
c                       :: sources of samples: clusters, tasks, masks
c_{\alpha}              :: readouts of all fields of a source
b                       :: blocks of the input's spectrum
c_0                     :: latent coordinates of a sample, standard Gaussian
d_0                     :: how many of them :: data.latent_ratio
\Phi                    :: matrix that mixes them, of standard Gaussian entries
\sigma_0                :: what is applied to every coordinate of the mixture
\kappa_1                :: $\mathbb{E}[u\, \sigma_0(u)]$, the linear part of it
b_k                     :: bias of unit $k$
\Pi_b                   :: projector on block $b$
\gamma_b                :: share of the coordinates that block $b$ has
s_b, s_{cb}             :: variance of the input in block $b$, given the source
r_r                     :: directions of the means of the clusters
y_0, y_{0c}             :: number in the label of a source
V_p                     :: vectors that move, then those that are fixed
p, q                    :: vectors that move
f                       :: output of the student; as an index, fixed vectors
h                       :: readouts (heads)
r                       :: vectors; directions
\beta_p                 :: what a sample moves a vector by, times $\sqrt d$
\hat a_{ci}             :: readout of unit $i$ that source $c$ is read by
\hat\phi_{ci}           :: feedback of unit $i$, given the source
\pi                     :: probabilities of the sources
u_{i\gamma}             :: covariance of two fields, tilted by the slope of unit $i$
u_k                     :: velocity of unit $k$ (momentum)
v_{ik\gamma}            :: covariance of two fields, tilted by the slopes of units $i$ and $k$
\mu_{u}                 :: mean of a field, tilted by the slope of unit $i$
\mu_{v}                 :: mean of a field, tilted by the slopes of two units
S_i                     :: average of the second derivative of unit $i$ times the error
G_i                     :: average gradient of unit $i$
H_{ip}                  :: slope of that gradient in field $p$
N_{ik}                  :: second moment of the gradients of two units
R_i, R_{oi}             :: gradient of a readout
X_{biq}                 :: gradient of unit $i$ along a vector, in block $b$
Z_{bik}                 :: second moment of gradients in block $b$
C_{clj}                 :: covariance of the fields, given the source
A_{cm}, A_c             :: weight of unit $m$ of the target, given the source
\sigma_c                :: standard deviation of the label's noise, given the source
\bar w_k                :: running average of the weights
U_{ip}                  :: weight of a field in the error of unit $i$
\varepsilon_c           :: error on the samples of one source
\nu                     :: rate at which the target diffuses
\nu_{cm}, \nu_{cr}      :: components of the mean of a source
W, W_{mn}               :: how the target's vectors mix as they drift
\zeta_m, \zeta_k        :: standard Gaussian vector, fresh at every step
\Lambda_{cpr}           :: drift of a vector along another that depends on the sample, averaged over a source
\bar\Lambda_{pr}       :: that drift, averaged over the sources
\Omega_{pq}             :: covariance of the noise that a step adds to two vectors
m_1, m_2                :: fixed vectors
M                       :: units of the target
K                       :: hidden units of the student :: student.width
e                       :: base of the natural logarithm
\phi                    :: fixed feedback of the units
n                       :: units of the target
\rho                    :: correlation of two standard Gaussians
n_1                     :: noise inside of the label, standard Gaussian
h(c)                    :: readout that source $c$ is read by
"""
    + MODEL
    + r"""
\psi_k                  :: what a unit is rewarded by, averaged over an episode
\psi_{\tau}             :: what a decision is rewarded by
\psi                    :: what a decision is rewarded by
s_{\tau}                :: decision of the student
y_{\tau}                :: right decision
\lambda_{\tau}          :: field of the student at a decision
\tau                    :: decisions of an episode
S                       :: right decisions of an episode
S'                      :: right decisions, the one in question left out
p_r                     :: chance
r_{+}, r_{-}            :: what is earned where the decision is right, and wrong
"""
)
