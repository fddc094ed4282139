import recbox

assert recbox.__version__ == "0.0.4"
