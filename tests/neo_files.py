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


def axona(top: Path) -> None:
    """Packets of three frames of 64 channels, in an order of their own; one tetrode was kept."""
    head = "trial_date Monday, 28 Nov 2016\r\ntrial_time 21:50:33\r\nduration 1\r\nrawRate 48000\r\n"
    head += "ADC_fullscale_mv 1500\r\n"
    head += "pretrigSamps 10\r\nspikeLockout 40\r\nsw_version 3.0.0\r\n"
    head += "".join(f"collectMask_{tetrode} {int(tetrode == 1)}\r\n" for tetrode in range(1, 5))
    head += "".join(f"gain_ch_{channel} {1000 + channel}\r\n" for channel in range(16))
    (top / "a.set").write_bytes(head.encode("cp1252") + b"data_start\r\ndata_end\r\n")
    packet = np.dtype([("head", "S32"), ("s", "<i2", (3, 64)), ("tail", "S16")])
    found = np.zeros(FRAMES // 3, packet)
    found["head"], found["s"] = b"ADU1", samples(frames=FRAMES // 3 * 3, channels=64).reshape(-1, 3, 64)
    (top / "a.bin").write_bytes(found.tobytes())


def micromed(top: Path) -> None:
    """Unsigned samples behind a header of zones; segments by the zone TRONCA."""
    names = ("ORDER", "LABCOD", "NOTE", "FLAGS", "TRONCA", "IMPED_B", "IMPED_E", "MONTAGE", "COMPRESS", "AVERAGE",
             "HISTORY", "DVIDEO", "EVENT A", "EVENT B", "TRIGGER")  # fmt: skip
    order, label, rest, data = 640, 704, 704 + 128 * CHANNELS, 2048
    places = {"ORDER": (order, 2 * CHANNELS), "LABCOD": (label, 128 * CHANNELS), "TRONCA": (rest + 64, 16)}
    head = bytearray(data)
    head[64:106] = b"Nobody".ljust(22) + b"At all".ljust(20)
    head[128:134] = bytes([28, 11, 116, 21, 50, 33])
    struct.pack_into("<IHHHH", head, 138, data, CHANNELS, 2 * CHANNELS, 1024, 2)
    head[175] = 4
    for number, name in enumerate(names):
        struct.pack_into("<8sII", head, 176 + 16 * number, name.encode().ljust(8), *places.get(name, (rest, 0)))
    struct.pack_into(f"<{CHANNELS}H", head, order, *range(CHANNELS))
    for number in range(CHANNELS):
        values = (f"E{number}".encode(), b"G2", 0, 65535, 32768, -3200, 3200, 0, 1)
        struct.pack_into("<6s6siiiiih8xH", head, label + 128 * number + 2, *values)
    struct.pack_into("<IIIIII", head, rest + 64, 10, 1000, 5000, 2000, 0, 0)
    (top / "a.trc").write_bytes(bytes(head) + samples("<u2").tobytes())


def neuroexplorer(top: Path) -> None:
    """A variable each: spike times, and two signals that lie apart."""
    head = struct.pack("<4si256sdiii260x", b"NEX1", 104, b"", 40000.0, 0, 40000, 3)
    place = len(head) + 3 * 208
    variables, content = b"", b""
    for number, name in enumerate(("unit", "AD01", "AD02")):
        kind, count = (0, 5) if not number else (5, 1)
        points = 0 if not number else FRAMES
        variables += struct.pack("<ii64siiiiiidddd", kind, 102, name.encode(), place + len(content), count, 0, 0, 0, 0,
                                 0.0, 0.0, 1000.0, 0.0025)  # fmt: skip
        variables += struct.pack("<iiidd52x", points, 0, 0, 0.5, 0.0)
        if number:
            content += struct.pack("<ii", 400, 0) + samples(channels=2)[:, number - 1].tobytes()
        else:
            content += np.arange(5, dtype="<i4").tobytes()
    (top / "a.nex").write_bytes(head + variables + content)


def plexon(top: Path) -> None:
    """Blocks of channels in turn, and a spike between them."""
    head = struct.pack("<Ii128s14idBBBBHHH18s18s10s", 0x58454C50, 106, b"", 40000, 1, 0, CHANNELS, 32, 8, 2016, 11, 28,
                       21, 50, 33, 0, 40000, 0.0, 1, 1, 12, 16, 3000, 5000, 1000, b"", b"", b"")  # fmt: skip
    head += bytes(4 * (650 + 650 + 512))
    head += struct.pack("<32s32si", b"sig001", b"sig001", 1) + bytes(1020 - 68)
    for number in range(CHANNELS):
        head += struct.pack("<32s6i", f"WB{number + 1:02d}".encode(), number, 40000, 1, 1, 1000, 0)
        head += bytes(296 - 56)
    content = struct.pack("<HHIHHHH", 1, 0, 10, 1, 0, 1, 32) + bytes(64)
    for start in range(0, FRAMES, 256):
        for number in range(CHANNELS):
            content += struct.pack("<HHIHHHH", 5, 0, start, number, 0, 1, 256)
            content += samples()[start : start + 256, number].tobytes()
    (top / "a.plx").write_bytes(head + content)


def tdt(top: Path) -> None:
    """A block of a tank: an index, a text of the stores, and samples in pieces, channel by channel."""
    folder = top / "tank" / "Block-1"
    folder.mkdir(parents=True)
    fields = {
        "StoreName": "Wave", "HeadName": "Stream", "Enabled": 1, "CircType": 2, "NumChan": CHANNELS, "StrobeMode": 0,
        "TankEvType": 33025, "NumPoints": 256, "DataFormat": 2, "SampleFreq": 24414.0625,
    }  # fmt: skip
    text = "".join(
        f"NAME={name};TYPE={'S' if isinstance(one, str) else 'L'};VALUE={one};\n" for name, one in fields.items()
    )
    stem = folder / "tank_Block-1"
    stem.with_suffix(".Tbk").write_text(text + "[USERNOTEDELIMITER]\n[STOREHDRITEM]")
    stem.with_suffix(".Tdx").write_bytes(b"")
    row = np.dtype([("size", "<i4"), ("type", "<i4"), ("name", "S4"), ("channel", "<u2"), ("sort", "<u2"), ("t", "<f8"),
                    ("offset", "<i8"), ("format", "<i4"), ("rate", "<f4")])  # fmt: skip
    index = [(0, 0, b"", 0, 0, 0.0, 0, 0, 0.0), (0, 34817, b"\1", 0, 0, 1.5e9, 0, 0, 0.0)]
    content = b""
    for start in range(0, FRAMES, 256):
        for number in range(CHANNELS):
            index.append((138, 33025, b"Wave", number + 1, 0, 1.5e9 + start / 24414.0625, len(content), 2, 24414.0625))
            content += samples()[start : start + 256, number].tobytes()
    index.append((0, 34818, b"\2", 0, 0, 1.5e9 + 1, 0, 0, 0.0))
    stem.with_suffix(".tev").write_bytes(content)
    stem.with_suffix(".tsq").write_bytes(np.array(index, row).tobytes())


def winwcp(top: Path) -> None:
    """Two records, each behind a part of its own of what was analysed."""
    frames = 512  # a whole number of sectors
    fields = {"VER": 9, "RTIME": "28/11/2016 21:50:33", "NC": 2, "NR": 2, "NBH": 2, "NBA": 2, "NBD": 4, "AD": 5.0,
              "ADCMAX": 32767, "NP": frames, "DT": 0.0001}  # fmt: skip
    for number in range(2):
        fields |= {f"YN{number}": f"Im{number}", f"YU{number}": "mV", f"YG{number}": 0.5, f"YO{number}": number}
    head = "".join(f"{name}={value}\r\n" for name, value in fields.items()).encode().ljust(1024, b"\0")
    record = struct.pack("<8s4sfff8f", b"ACCEPTED", b"TEST", 1.0, 0.0, 1e-4, *[5.0] * 8).ljust(1024, b"\0")
    (top / "a.wcp").write_bytes(
        head + b"".join(record + samples(frames=frames, channels=2)[:, ::step].tobytes() for step in (1, -1))
    )


def axon(top: Path) -> None:
    """ABF 1: two sweeps behind a header of fixed places, and where they begin behind them."""
    head = bytearray(6144)

    def put(place: int, kind: str, *values: Any) -> None:
        struct.pack_into("<" + kind, head, place, *values)

    put(0, "4sfh", b"ABF ", 1.83, 5)
    put(10, "ihi", FRAMES * CHANNELS, 0, 2)
    put(20, "ii", 20161128, 78633)
    data = FRAMES * CHANNELS * 2
    put(40, "i", len(head) // 512)
    put(92, "ii", (len(head) + data) // 512, 2)
    put(120, "hf", CHANNELS, 25.0)
    put(130, "f", 0.0)
    put(138, "i", FRAMES * CHANNELS // 2)
    put(244, "f", 10.0)
    put(252, "i", 32768)
    put(378, "16h", *range(16))
    put(410, "16h", *range(CHANNELS), *[-1] * (16 - CHANNELS))
    put(442, "10s" * 16, *[f"IN {number}".ljust(10).encode() for number in range(16)])
    put(602, "8s" * 16, *[b"mV      "] * 16)
    for place in (730, 922, 1050):
        put(place, "16f", *[1.0] * 16)
    put(4576, "16f", *[1.0] * 16)
    sweeps = struct.pack("<4i", 0, FRAMES * CHANNELS // 2, 20000, FRAMES * CHANNELS // 2)
    (top / "a.abf").write_bytes(bytes(head) + samples().tobytes() + sweeps)


def axograph(top: Path) -> None:
    """Format 2: big-endian columns one after the other, the first a series of times."""

    def title(text: str) -> bytes:
        return (bytes([len(text)]) + text.encode()).ljust(80, b"\0")

    content = b"AxGr" + struct.pack(">HH", 2, 3) + struct.pack(">i", FRAMES) + title("Time (s)")
    content += struct.pack(">ff", 0.0, 0.0001)
    for number, name in enumerate(("Im (pA)", "Vm (mV)")):
        content += struct.pack(">i", FRAMES) + title(name) + struct.pack(">f", 0.25)
        content += samples(channels=2)[:, number].astype(">i2").tobytes()
    (top / "a.axgd").write_bytes(content)


def edf(top: Path) -> None:
    """Records of a tenth of a second, signal by signal; to read it neo needs pyedflib."""
    signals = [
        (16, [f"EEG {number}" for number in range(CHANNELS)]), (80, ["AgAgCl"] * CHANNELS), (8, ["uV"] * CHANNELS),
        (8, [-3200] * CHANNELS), (8, [3200] * CHANNELS), (8, [-32768] * CHANNELS), (8, [32767] * CHANNELS),
        (80, [""] * CHANNELS), (8, [256] * CHANNELS), (32, [""] * CHANNELS),
    ]  # fmt: skip
    head = b"0".ljust(8) + b"X X X X".ljust(80) + b"Startdate X X X X".ljust(80) + b"28.11.1621.50.33"
    head += str(256 * (CHANNELS + 1)).encode().ljust(8) + b"".ljust(44) + str(FRAMES // 256).encode().ljust(8)
    head += b"0.1".ljust(8) + str(CHANNELS).encode().ljust(4)
    head += b"".join(str(one).encode().ljust(width) for width, values in signals for one in values)
    (top / "a.edf").write_bytes(head + samples().reshape(-1, 256, CHANNELS).transpose(0, 2, 1).tobytes())


def bytes_missing(top: Path) -> None:
    """An Intan file that ends inside its header."""
    intan(top)
    (top / "a.rhd").write_bytes((top / "a.rhd").read_bytes()[:100])


WRITERS = (
    brainvision, elan, neuroscope, mcsraw, neuronexus, winedr, openephys_classic, blackrock, neuralynx, spikegadgets,
    biocam, maxwell, intan, axona, micromed, neuroexplorer, plexon, tdt, winwcp, axon, axograph,
)  # fmt: skip
