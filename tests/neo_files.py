"""Small recordings as other acquisition systems write them, by the documents of their formats.

Each writer fills a directory and returns nothing; what the files hold is asked of python-neo.
"""

import json
import struct
from pathlib import Path
from typing import Any

import h5py
import numpy as np

FRAMES, CHANNELS = 2560, 4
Samples = np.ndarray[Any, Any]


def samples(dtype: str = "<i2", frames: int = FRAMES, channels: int = CHANNELS) -> Samples:
    """Noise around the middle of the type."""
    generator = np.random.default_rng(frames + channels)
    middle = 32768 if np.dtype(dtype).kind == "u" else 0
    return (generator.normal(middle, 60, (frames, channels))).round().astype(dtype)


def brainvision(top: Path) -> None:
    (top / "a.eeg").write_bytes(samples().tobytes())
    channels = "\n".join(f"Ch{number + 1}=E{number},,0.5,µV" for number in range(CHANNELS))
    (top / "a.vhdr").write_text(
        "Brain Vision Data Exchange Header File Version 1.0\n[Common Infos]\nDataFile=a.eeg\nMarkerFile=a.vmrk\n"
        f"DataFormat=BINARY\nDataOrientation=MULTIPLEXED\nNumberOfChannels={CHANNELS}\nSamplingInterval=200\n"
        f"[Binary Infos]\nBinaryFormat=INT_16\n[Channel Infos]\n{channels}\n"
    )
    (top / "a.vmrk").write_text(
        "Brain Vision Data Exchange Marker File, Version 1.0\n[Common Infos]\nDataFile=a.eeg\n[Marker Infos]\n"
        "Mk1=New Segment,,1,1,0\n"
    )


def elan(top: Path) -> None:
    """Big-endian, with two columns behind the channels."""
    names = [f"E{number}" for number in range(CHANNELS)] + ["Num1", "Num2"]
    many = len(names)
    lines = ["V2", "a", "b", "28-11-2016 21:50:33", "21:50:33", "-1", "reserved", "-1", "0.001", str(many)]
    for values in (names, ["Electrode EEG"] * many, ["uV"] * many, ["-3200"] * many, ["3200"] * many):
        lines += values
    for value in ("-32768", "32767", "none"):
        lines += [value] * many
    (top / "a.eeg.ent").write_text("\n".join(lines) + "\n")
    (top / "a.eeg.pos").write_text("10 1 0\n")
    (top / "a.eeg").write_bytes(samples(">i2", channels=many).tobytes())


def neuroscope(top: Path) -> None:
    (top / "a.dat").write_bytes(samples().tobytes())
    rows = "".join(f"<channel>{number}</channel>" for number in range(CHANNELS))
    (top / "a.xml").write_text(
        f"<parameters><acquisitionSystem><nBits>16</nBits><nChannels>{CHANNELS}</nChannels><samplingRate>20000"
        "</samplingRate><voltageRange>20</voltageRange><amplification>1000</amplification><offset>0</offset>"
        "</acquisitionSystem><anatomicalDescription><channelGroups><group>"
        f"{rows}</group></channelGroups></anatomicalDescription></parameters>"
    )


def mcsraw(top: Path) -> None:
    """Unsigned samples behind a header of text."""
    head = "MC_DataTool binary conversion\r\nVersion 2.6.15\r\nSample rate = 25000\r\nADC zero = 32768\r\n"
    head += "El = 0.1042µV/AD\r\nStreams = " + ";".join(f"El_{number}" for number in range(CHANNELS)) + "\r\nEOH\r\n"
    (top / "a.raw").write_bytes(head.encode("cp1252") + samples("<u2").tobytes())


def neuronexus(top: Path) -> None:
    about = {
        "status": {
            "samp_freq": 30000.0, "shape": [FRAMES, CHANNELS + 1], "timestamp_range": [5, 5 + FRAMES],
            "t_range": [0.5, 0.5 + FRAMES / 3e4], "start_time": "2024-07-01T13:04:49.497224-04:00",
        },
        "sapiens_base": {
            "biointerface_map": {
                "chan_name": [f"pri_{number}" for number in range(CHANNELS)] + ["din_0"],
                "ntv_chan_name": [f"ai-{number}" for number in range(CHANNELS)] + ["di-0"],
                "chan_type": ["ai0"] * CHANNELS + ["din0"],
            }
        },
    }  # fmt: skip
    (top / "a.xdat.json").write_text(json.dumps(about))
    (top / "a_data.xdat").write_bytes(samples(channels=CHANNELS + 1).astype("<f4").tobytes())
    (top / "a_timestamp.xdat").write_bytes(np.arange(5, 5 + FRAMES, dtype="<i8").tobytes())


def winedr(top: Path) -> None:
    """Bytes follow the samples: the file is not one to be cut."""
    fields = {
        "VER": "6.4",
        "NC": CHANNELS,
        "NP": FRAMES * CHANNELS,
        "NBH": 2048,
        "AD": 10,
        "ADCMAX": 32767,
        "DT": 0.001,
    }
    for number in range(CHANNELS):
        fields |= {f"YN{number}": f"Ch.{number}", f"YU{number}": "mV", f"YCF{number}": 0.001, f"YAG{number}": 1.0}
        fields |= {f"YZ{number}": 0, f"YO{number}": number}
    head = "".join(f"{key}={value}\r\n" for key, value in fields.items()).encode()
    (top / "a.edr").write_bytes(head.ljust(2048, b"\0") + samples().tobytes() + b"the end")


def openephys_classic(top: Path) -> None:
    head = (
        "header.format = 'Open Ephys Data Format'; \nheader.version = 0.4; \nheader.header_bytes = 1024;\n"
        "header.description = 'each record contains samples'; \nheader.date_created = '21-Nov-2016 215033';\n"
        "header.channel = 'CH1';\nheader.channelType = 'Continuous';\nheader.sampleRate = 30000;\n"
        "header.blockLength = 1024;\nheader.bufferSize = 1024;\nheader.bitVolts = 0.195;\n"
    )
    record = np.dtype([("t", "<i8"), ("n", "<u2"), ("r", "<u2"), ("s", ">i2", 1024), ("m", "u1", 10)])
    for number in range(CHANNELS):
        found = np.zeros(3, record)
        found["t"], found["n"] = np.arange(3) * 1024 + 2048, 1024
        found["s"] = samples(frames=3 * 1024)[:, number].reshape(3, 1024)
        found["m"] = [0, 1, 2, 3, 4, 5, 6, 7, 8, 255]
        content = head.replace("CH1", f"CH{number + 1}").encode().ljust(1024)
        (top / f"100_CH{number + 1}.continuous").write_bytes(content + found.tobytes())


def blackrock(top: Path) -> None:
    """Two pieces in one file, as a pause makes them."""
    head = b"NEURALCD" + bytes([2, 3]) + struct.pack("<I", 314 + 66 * CHANNELS) + b"30 kS/s".ljust(16, b"\0")
    head += bytes(256) + struct.pack("<II8HI", 1, 30000, 2016, 11, 1, 28, 21, 50, 33, 0, CHANNELS)
    for number in range(CHANNELS):
        head += b"CC" + struct.pack("<H16sBBhhhh16s", number + 1, f"chan{number}".encode(), 1, 1, -8191, 8191, -5000,
                                    5000, b"uV")  # fmt: skip
        head += struct.pack("<IIHIIH", 300, 4, 1, 7500000, 3, 1)
    for start, count in ((0, 1000), (90_000, 700)):
        head += struct.pack("<BII", 1, start, count) + samples(frames=count).tobytes()
    (top / "a.ns6").write_bytes(head)


def neuralynx(top: Path) -> None:
    record = np.dtype([("t", "<u8"), ("c", "<u4"), ("r", "<u4"), ("n", "<u4"), ("s", "<i2", 512)])
    for number in range(CHANNELS):
        head = (
            f"######## Neuralynx Data File Header\r\n## File Name C:\\x\\CSC{number}.ncs\r\n"
            "## Time Opened (m/d/y): 11/28/2016  (h:m:s.ms) 21:50:33.322\r\n"
            "## Time Closed (m/d/y): 11/28/2016  (h:m:s.ms) 22:44:41.145\r\n"
            f"-CheetahRev 5.6.3\r\n-AcqEntName CSC{number}\r\n-FileType NCS\r\n-FileVersion 3.3.0\r\n"
            "-RecordSize 1044\r\n-HardwareSubSystemName AcqSystem1\r\n-HardwareSubSystemType DigitalLynxSX\r\n"
            "-SamplingFrequency 32000\r\n-ADMaxValue 32767\r\n-ADBitVolts 0.000000030518510385491027\r\n"
            f"-NumADChannels 1\r\n-ADChannel {number}\r\n-InputRange 1000\r\n-InputInverted True\r\n"
        )
        found = np.zeros(5, record)
        found["t"], found["c"], found["r"], found["n"] = 1_000_000 + np.arange(5) * 16000, number, 32000, 512
        found["s"] = samples()[:, number].reshape(5, 512)
        (top / f"CSC{number}.ncs").write_bytes(head.encode().ljust(16384, b"\0") + found.tobytes())


def spikegadgets(top: Path) -> None:
    trodes = "".join(
        f'<SpikeNTrode id="{n}" spikeScalingToUv="0.195"><SpikeChannel hwChan="{n}"/></SpikeNTrode>'
        for n in range(CHANNELS)
    )
    head = (
        f'<?xml version="1.0"?>\n<Configuration>\n<GlobalConfiguration/>\n<HardwareConfiguration samplingRate="30000" '
        f'numChannels="{CHANNELS}"><Device name="ECU" numBytes="6"><Channel id="ECU_Ain1" dataType="analog" '
        f'startByte="2"/></Device></HardwareConfiguration>\n<SpikeConfiguration chanPerChip="32">{trodes}'
        "</SpikeConfiguration>\n</Configuration>\n"
    )
    packet = np.dtype([("sync", "u1"), ("ecu", "u1", 6), ("t", "<u4"), ("s", "<i2", CHANNELS)])
    found = np.zeros(FRAMES, packet)
    found["sync"], found["t"], found["s"] = 0x55, np.arange(FRAMES), samples()
    found["ecu"] = np.random.default_rng(1).integers(0, 255, (FRAMES, 6))
    (top / "a.rec").write_bytes(head.encode() + found.tobytes())


def biocam(top: Path) -> None:
    with h5py.File(top / "a.brw", "w") as file:
        about = file.create_group("3BRecInfo/3BRecVars")
        for name, value, kind in (
            ("BitDepth", 12, "u1"), ("MaxVolt", 4125.0, "f8"), ("MinVolt", -4125.0, "f8"), ("NRecFrames", FRAMES, "i8"),
            ("SamplingRate", 17855.5, "f8"), ("SignalInversion", 1.0, "f8"),
        ):  # fmt: skip
            about[name] = np.array([value], kind)
        channel = np.dtype([("Row", "<i2"), ("Col", "<i2")])
        file["3BRecInfo/3BMeaStreams/Raw/Chs"] = np.array([(1, n + 1) for n in range(CHANNELS)], channel)
        file["3BData/Raw"] = (samples("<u2") // 16).ravel()
        file["3BData"].attrs["Version"] = 102


def maxwell(top: Path) -> None:
    with h5py.File(top / "a.raw.h5", "w") as file:
        file["version"] = np.array([b"20190530"])
        record = file.create_group("wells/well000/rec0000")
        record["settings/sampling"] = np.array([20000.0])
        record["settings/lsb"] = np.array([6.3e-6])
        mapping = np.dtype([("channel", "<i4"), ("electrode", "<i4"), ("x", "<f8"), ("y", "<f8")])
        record["settings/mapping"] = np.array([(n, 100 + n, n * 17.5, 0) for n in range(CHANNELS)], mapping)
        record["groups/routed/raw"] = samples("<u2").T


def intan(top: Path) -> None:
    """The traditional form: blocks of 128 samples, channel by channel, with slower auxiliary inputs."""

    def text(value: str) -> bytes:
        data = value.encode("utf-16-le")
        return struct.pack("<I", len(data)) + data

    head = struct.pack("<IhhfhffffffHff", 0xC6912702, 3, 0, 30000.0, 1, 1, 1, 7500, 1, 1, 7500, 0, 1000, 1000)
    head += text("") * 3 + struct.pack("<hh", 0, 0) + text("") + struct.pack("<h", 1)
    head += text("Port A") + text("A") + struct.pack("<hhh", 1, CHANNELS + 1, CHANNELS)
    for number in range(CHANNELS + 1):
        name, kind = (f"A-{number:03d}", 0) if number < CHANNELS else ("A-AUX1", 1)
        head += text(name) + text(name) + struct.pack("<10hff", number, number, kind, 1, number, 0, 0, 0, 0, 0, 1e6, 30)
    block = np.dtype([("t", "<i4", 128), ("a", "<u2", (CHANNELS, 128)), ("x", "<u2", 32)])
    found = np.zeros(FRAMES // 128, block)
    found["t"] = np.arange(FRAMES).reshape(-1, 128)
    found["a"] = samples("<u2").reshape(-1, 128, CHANNELS).transpose(0, 2, 1)
    found["x"] = samples("<u2", FRAMES // 4, 1).reshape(-1, 32)
    (top / "a.rhd").write_bytes(head + found.tobytes())


def bytes_missing(top: Path) -> None:
    """An Intan file that ends inside its header."""
    intan(top)
    (top / "a.rhd").write_bytes((top / "a.rhd").read_bytes()[:100])


WRITERS = (
    brainvision, elan, neuroscope, mcsraw, neuronexus, winedr, openephys_classic, blackrock, neuralynx, spikegadgets,
    biocam, maxwell, intan,
)  # fmt: skip
