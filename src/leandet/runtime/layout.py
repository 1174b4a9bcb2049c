"""Names of the files inside model folders, known to who writes and who reads them."""

OPENVINO_XML, OPENVINO_BIN = "model.xml", "model.bin"
NCNN_PARAM, NCNN_BIN = "model.param", "model.bin"
