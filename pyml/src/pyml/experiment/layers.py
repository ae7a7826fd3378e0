"""The allow-lists of Keras layers, and of objects in their arguments: an experiment may use only these.

Each of these layers only computes on tensors. Left out on purpose: Lambda (arbitrary code), TFSMLayer (a foreign
graph), TextVectorization and the lookup layers (`.h5` cannot hold them, see docs/decisions/).
"""

ALLOWED_LAYERS = frozenset(
    "InputLayer Rescaling Normalization Resizing CenterCrop RandomFlip RandomRotation RandomZoom RandomTranslation "
    "RandomContrast Dense Flatten Reshape Permute RepeatVector Activation ReLU LeakyReLU PReLU ELU "
    "Softmax Dropout SpatialDropout1D SpatialDropout2D GaussianNoise GaussianDropout AlphaDropout "
    "ActivityRegularization BatchNormalization LayerNormalization GroupNormalization UnitNormalization "
    "Conv1D Conv2D Conv3D SeparableConv1D SeparableConv2D DepthwiseConv1D DepthwiseConv2D Conv1DTranspose "
    "Conv2DTranspose MaxPooling1D MaxPooling2D AveragePooling1D AveragePooling2D "
    "GlobalMaxPooling1D GlobalMaxPooling2D GlobalMaxPooling3D GlobalAveragePooling1D GlobalAveragePooling2D "
    "GlobalAveragePooling3D ZeroPadding1D ZeroPadding2D Cropping1D Cropping2D UpSampling1D UpSampling2D "
    "Embedding Masking SimpleRNN LSTM GRU Bidirectional TimeDistributed".split()
)
# Layers that people try, and why they do not work here.
UNSUPPORTED = {
    "MaxPooling3D": "LiteRT cannot run it; use Conv3D with strides, or GlobalMaxPooling3D",
    "AveragePooling3D": "LiteRT cannot run it; use Conv3D with strides, or GlobalAveragePooling3D",
    "RandomBrightness": "Keras cannot write it to model.h5; use RandomContrast",
}
# The objects that an argument may be, as {"class_name": ..., "config": {...}}. Keras would look for any other class in
# any module of Python.
ALLOWED_OBJECTS = frozenset(
    "Constant GlorotNormal GlorotUniform HeNormal HeUniform Identity LecunNormal LecunUniform Ones Orthogonal "
    "RandomNormal RandomUniform TruncatedNormal VarianceScaling Zeros L1 L2 L1L2 OrthogonalRegularizer MaxNorm "
    "MinMaxNorm NonNeg UnitNorm".split()
)
WRAPPERS = frozenset({"Bidirectional", "TimeDistributed"})  # they apply an inner layer
